//! The tools, with the environment variables and files that their command lines do not describe.

use clap::{Command, CommandFactory};

/// A name and its description.
pub(crate) type Entry = (&'static str, &'static str);

/// One tool.
pub(crate) struct Subject {
    /// The command line. It was built, so that every verb contains the global options.
    command: Command,
    /// Whether the tool uses libvirt.
    pub(crate) libvirt: bool,
    /// The environment variables that the tool reads, besides those of all tools.
    pub(crate) environment: Vec<Entry>,
    /// The files that the tool reads or writes, besides those in its arguments.
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

    /// Marks a tool that uses libvirt and reads defaults from configuration files.
    fn on_libvirt(mut self) -> Self {
        self.libvirt = true;
        self.environment(&CONNECTION).files(&CONFIGURATION)
    }

    /// The name of the tool.
    pub(crate) fn name(&self) -> &str {
        self.command.get_name()
    }

    /// The tool itself, its verbs, and their subordinate verbs.
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

/// The verbs of a tool, or the subordinate verbs of a verb.
pub(crate) fn verbs(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|verb| !verb.is_hide_set())
}

/// All tools.
pub(crate) fn all() -> [Subject; 6] {
    [
        Subject::new::<tdx_attest::Cli>().environment(&NETWORK).files(&[(
            "/sys/firmware/acpi/tables/data/CCEL",
            "The event log of a trust domain, in the guest.",
        )]),
        Subject::new::<tdx_disk::Cli>().on_libvirt(),
        Subject::new::<tdx_gpu::Cli>().files(&[
            ("/etc/tdx/bind.d", "Records of the devices that bind --persist binds at every boot."),
            (
                "/etc/systemd/system/tdx-gpu-bind.service",
                "The systemd unit that binds these devices. It exists while there are records.",
            ),
            BOUND,
            (
                "/run/tdx/dma_entry_limit",
                "The limit on DMA mappings that is restored when the last device is unbound.",
            ),
            MODES,
        ]),
        Subject::new::<tdx_iommu::Cli>()
            .files(&[("/usr/share/misc/pci.ids", "The names of vendors and devices.")]),
        Subject::new::<tdx_pool::Cli>().on_libvirt().environment(&POOL).files(&LOCKS),
        Subject::new::<tdx_td::Cli>()
            .on_libvirt()
            .environment(&POOL)
            .environment(&DOMAIN)
            .files(&LOCKS)
            .files(&[BOUND, MODES, TUNED]),
    ]
}

const NETWORK: [Entry; 3] = [
    ("HTTPS_PROXY", "The proxy of tdx-attest collateral."),
    ("SSL_CERT_FILE", "A file of certificate authorities that replaces those of the system."),
    ("SSL_CERT_DIR", "A directory of certificate authorities that replaces those of the system."),
];

const CONNECTION: [Entry; 3] = [
    ("TDX_CONNECT", "The libvirt URI, if neither --connect nor --host is given."),
    ("TDX_HOSTS", "The file that lists the hosts for --host."),
    (
        "LIBVIRT_DEFAULT_URI",
        "The libvirt URI, if no option, TDX_CONNECT or configuration file has one.",
    ),
];

const POOL: [Entry; 2] =
    [("TDX_POOL", "The name of the pool."), ("TDX_POOL_PATH", "The directory of the pool.")];

const DOMAIN: [Entry; 6] = [
    ("TDX_IMAGE", "The base image of a new domain, if --td-image is not given."),
    ("TDX_MEMORY", "The memory of a new domain."),
    ("TDX_VCPUS", "The number of virtual CPUs of a new domain."),
    ("TDX_NETWORK", "The libvirt network of a new domain."),
    ("TDX_SECURITY", "The launch security of a new domain."),
    ("TDX_VIRT_TYPE", "The virtualization type of a new domain: auto, kvm or qemu."),
];

const CONFIGURATION: [Entry; 2] = [
    (
        "/etc/tdx/tdx.yaml",
        "Defaults of the host. The keys are the variables above without TDX_, in lower case.",
    ),
    (
        "~/.config/tdx/tdx.yaml",
        "Defaults of the user, which override those of the host. The environment and options override both.",
    ),
];

const LOCKS: [Entry; 2] = [
    ("/run/tdx-pool", "Locks of root's commands on volumes."),
    ("/run/lock/tdx", "Locks of other users' commands on volumes."),
];
const BOUND: Entry =
    ("/run/tdx/bound", "Records of devices that are bound to VFIO, with their former drivers.");
const MODES: Entry =
    ("/var/lib/tdx/modes", "Records of the former modes of GPUs, which are restored later.");
const TUNED: Entry =
    ("/run/tdx/tuned", "Records of the host's former settings, which host restore sets again.");
