//! The tools, and what surrounds each: variables and files that its command line does not tell of.

use clap::{Command, CommandFactory};

/// A name and what is to be said of it.
pub(crate) type Entry = (&'static str, &'static str);

/// One tool.
pub(crate) struct Subject {
    /// Its command line, built: what is global is in every verb.
    command: Command,
    /// Whether it talks to libvirt.
    pub(crate) libvirt: bool,
    /// Variables it reads besides those of all tools.
    pub(crate) environment: Vec<Entry>,
    /// Files it reads or writes besides those it is told.
    pub(crate) files: Vec<Entry>,
}

impl Subject {
    fn new<T: CommandFactory>() -> Self {
        let mut command = T::command().disable_help_subcommand(true);
        command.build();
        Self { command, libvirt: false, environment: Vec::new(), files: Vec::new() }
    }

    fn environment(mut self, entries: &[Entry]) -> Self {
        self.environment.extend(entries);
        self
    }

    fn files(mut self, entries: &[Entry]) -> Self {
        self.files.extend(entries);
        self
    }

    /// For a tool that talks to libvirt and has defaults in files.
    fn on_libvirt(mut self) -> Self {
        self.libvirt = true;
        self.environment(&CONNECTION).files(&CONFIGURATION)
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        self.command.get_name()
    }

    /// The tool itself, then each of its verbs with those below it.
    pub(crate) fn commands(&self) -> Vec<&Command> {
        let mut commands = vec![&self.command];
        let mut next = 0;
        while let Some(command) = commands.get(next).copied() {
            commands.extend(verbs(command));
            next += 1;
        }
        commands
    }
}

/// The verbs of a tool, or of a verb that has some.
pub(crate) fn verbs(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|verb| !verb.is_hide_set())
}

/// All tools.
pub(crate) fn all() -> [Subject; 5] {
    [
        Subject::new::<tdx_disk::Cli>().on_libvirt(),
        Subject::new::<tdx_gpu::Cli>().files(&[
            ("/etc/tdx/bind.d", "what bind --persist recorded, to be bound at every boot"),
            (
                "/etc/systemd/system/tdx-gpu-bind.service",
                "the unit that does so; there while needed",
            ),
            BOUND,
            ("/run/tdx/dma_entry_limit", "the limit on mappings that the last unbind restores"),
            MODES,
        ]),
        Subject::new::<tdx_iommu::Cli>()
            .files(&[("/usr/share/misc/pci.ids", "names of vendors and devices")]),
        Subject::new::<tdx_pool::Cli>().on_libvirt().environment(&POOL).files(&LOCKS),
        Subject::new::<tdx_td::Cli>()
            .on_libvirt()
            .environment(&POOL)
            .environment(&DOMAIN)
            .files(&LOCKS)
            .files(&[BOUND, MODES, TUNED]),
    ]
}

const CONNECTION: [Entry; 3] = [
    ("TDX_CONNECT", "The libvirt URI, where neither --connect nor a file says one."),
    ("TDX_HOSTS", "The file that names hosts for --host."),
    ("LIBVIRT_DEFAULT_URI", "The libvirt URI, where TDX_CONNECT does not say one either."),
];

const POOL: [Entry; 2] =
    [("TDX_POOL", "The pool's name."), ("TDX_POOL_PATH", "The folder of the pool.")];

const DOMAIN: [Entry; 6] = [
    ("TDX_IMAGE", "The base image of new without --td-image."),
    ("TDX_MEMORY", "Memory of a new domain."),
    ("TDX_VCPUS", "Virtual CPUs of a new domain."),
    ("TDX_NETWORK", "The libvirt network of a new domain."),
    ("TDX_SECURITY", "Launch security of a new domain."),
    ("TDX_VIRT_TYPE", "auto, kvm or qemu."),
];

const CONFIGURATION: [Entry; 2] = [
    (
        "/etc/tdx/tdx.yaml",
        "defaults of the host, each the name of a variable above without TDX_, in lower case",
    ),
    ("~/.config/tdx/tdx.yaml", "defaults of the user; the environment and flags are stronger"),
];

const LOCKS: [Entry; 2] = [
    ("/run/tdx-pool", "locks that root's commands hold while they make a volume"),
    ("/run/lock/tdx", "locks that the commands of other users hold while they make a volume"),
];
const BOUND: Entry = ("/run/tdx/bound", "what each device was before it was given to VFIO");
const MODES: Entry = ("/var/lib/tdx/modes", "the modes that GPUs go back to");
const TUNED: Entry = ("/run/tdx/tuned", "what each setting of the host was before host tune");
