//! The steps of a program: its effects on the world outside of itself, one system call at a time; and an
//! event at one of them.
//!
//! A tracer (ptrace(2)) stops the program at the system calls that a filter (seccomp(2)) names. A step is a call that
//! creates, writes, flushes, renames, deletes, locks or marks a file, starts a program, or sends libvirt a message. The
//! tracer learns the function of a message from libvirt's debug log, which the program writes.

#![expect(clippy::disallowed_methods, reason = "tests start programs as users do")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use super::rig::Rig;
use super::tools::{Run, bin, repository};
use super::wait::wait_for;

/// An event at a step of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The program gets a signal.
    Signal(Signal),
    /// The system call is not made and returns this error.
    Error(Errno),
    /// libvirtd is killed, after this delay.
    NoLibvirtd(Duration),
    /// Another program acts while this one is stopped.
    Act,
}

/// The moment of an event: the nth occurrence of a step, right before or right after the step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) step: String,
    /// Counted from 1.
    pub(crate) nth: usize,
    pub(crate) after: bool,
}

/// The result of a traced program.
#[derive(Debug)]
pub(crate) struct Walk {
    pub(crate) run: Run,
    /// The signal that ended the program.
    pub(crate) signal: Option<i32>,
    /// The steps of the program and of the programs it started, in order.
    pub(crate) steps: Vec<String>,
    /// Whether the moment came.
    pub(crate) struck: bool,
}

impl Rig {
    /// Runs a tool and records its steps. Returns when the tool and all programs it started have ended.
    pub(crate) fn walk(&self, line: &str, stroke: Option<(Moment, Fate)>) -> Walk {
        self.watch(line, stroke, &|| self.libvirtd("kill"))
    }

    /// Runs a tool, stops it at the moment, and calls `act` before the tool continues.
    pub(crate) fn walk_beside(&self, line: &str, moment: Moment, act: &(dyn Fn() + Sync)) -> Walk {
        self.watch(line, Some((moment, Fate::Act)), act)
    }

    fn watch(
        &self,
        line: &str,
        stroke: Option<(Moment, Fate)>,
        others: &(dyn Fn() + Sync),
    ) -> Walk {
        let mut command = self.command(steps_program());
        command.env("LIBVIRT_LOG_FILTERS", "1:libvirt");
        command.env("LIBVIRT_LOG_OUTPUTS", "1:file:/dev/null");
        // nsenter starts the program `steps`, which starts the tool.
        watch(command, 2, line, stroke, others)
    }
}

/// Like [`Rig::walk`], on this machine. A line may begin with the path of a program that is no tool.
pub(crate) fn walk_here(line: &str, stroke: Option<(Moment, Fate)>) -> Walk {
    let others = || panic!("there is no libvirtd");
    watch(Command::new(steps_program()), 1, line, stroke, &others)
}

/// Runs a tool on this machine, stops it at the moment, and calls `act` before the tool continues.
pub(crate) fn walk_here_beside(line: &str, moment: Moment, act: &(dyn Fn() + Sync)) -> Walk {
    watch(Command::new(steps_program()), 1, line, Some((moment, Fate::Act)), act)
}

/// The program of tests/rig/steps.c: the one of the kernel rig, or one that is compiled when its source is newer.
fn steps_program() -> &'static Path {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
        let in_kernel_rig = PathBuf::from("/run/rig/steps");
        if in_kernel_rig.exists() {
            return in_kernel_rig;
        }
        let source = repository().join("tests/rig/steps.c");
        let program = repository().join("target/rig/steps");
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        let lock = File::create(program.with_extension("lock")).unwrap();
        lock.lock().unwrap();
        let time = |path: &Path| fs::metadata(path).and_then(|file| file.modified()).ok();
        if time(&program) < time(&source) {
            let new = program.with_extension("new");
            let mut compiler = Command::new("gcc");
            compiler.args(["-static", "-O2", "-Wall", "-Wextra", "-o"]).arg(&new).arg(source);
            assert!(compiler.status().unwrap().success(), "{compiler:?}");
            fs::rename(new, &program).unwrap();
        }
        program
    });
    &PROGRAM
}

/// Watches a tool that `starter` starts. The tool is the only child of so many generations below the starter. It
/// waits for a line on standard input before it begins.
fn watch(
    mut starter: Command,
    generations: usize,
    line: &str,
    stroke: Option<(Moment, Fate)>,
    others: &(dyn Fn() + Sync),
) -> Walk {
    let (tool, arguments) = line.split_once(' ').unwrap();
    starter.arg(bin(tool)).args(arguments.split(' '));
    starter.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = starter.spawn().unwrap();
    let go = child.stdin.take().unwrap();
    let only_child = |parent: u32, _| {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        children.unwrap().trim().parse().ok()
    };
    let program =
        wait_for("the start of the program", || (0..generations).try_fold(child.id(), only_child));
    let tool = Path::new(tool).file_name().unwrap().to_str().unwrap();
    let tracer = Tracer::new(others, tool, Pid::from_raw(program as i32), stroke);
    let (output, Tracer { steps, struck, signal, .. }) = std::thread::scope(|scope| {
        let tracer = scope.spawn(move || tracer.trace(go));
        (child.wait_with_output().unwrap(), tracer.join().unwrap())
    });
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let run = Run {
        line: line.to_owned(),
        status: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    };
    Walk { run, signal: signal.map(|signal| signal as i32), steps, struck }
}

impl Walk {
    /// Whether the tool failed, and its error names what was done or what is left.
    pub(crate) fn says_so(&self) -> bool {
        let error: Value = serde_json::from_str(&self.run.stderr).unwrap_or_default();
        let lists = ["applied", "left_behind"].map(|list| error["error"][list].as_array());
        self.run.stdout.is_empty() && lists.iter().flatten().any(|list| !list.is_empty())
    }
}

/// The moments before each step and, at a message that changes something, right after: libvirt continues to
/// work for a dead caller. Of many equal steps in a row the first, a middle one and the last.
pub(crate) fn moments(steps: &[String], full: bool) -> Vec<Moment> {
    let mut moments = Vec::new();
    let mut at = 0;
    for series in steps.chunk_by(|a, b| a == b) {
        let step = &series[0];
        let before = steps[..at].iter().filter(|other| *other == step).count();
        at += series.len();
        if is_question(step) && !full {
            continue;
        }
        let mut chosen = vec![1, series.len().div_ceil(2), series.len()];
        chosen.dedup();
        for nth in chosen {
            let moment = Moment { step: step.clone(), nth: before + nth, after: false };
            moments.push(moment.clone());
            if step.starts_with("libvirt: ") && !is_question(step) {
                moments.push(Moment { after: true, ..moment });
            }
        }
    }
    moments
}

/// A number of the moments, from the first to the last, at even distances.
pub(crate) fn spread(moments: &[Moment], count: usize) -> Vec<Moment> {
    assert!(moments.len() >= count && count > 1, "{moments:#?}");
    (0..count).map(|n| moments[n * (moments.len() - 1) / (count - 1)].clone()).collect()
}

/// Whether every moment is requested, instead of a selection.
pub(crate) fn is_full() -> bool {
    std::env::var_os("TDX_CRASH").is_some_and(|how| how == "full")
}

/// The moments at the last step of each kind. If there are more than two, also at the first and at a middle
/// one: the steps for one device or file are like those for the others.
pub(crate) fn of_each_kind(moments: Vec<Moment>) -> Vec<Moment> {
    let kinds: Vec<_> = moments.iter().map(|moment| (kind(&moment.step), moment.after)).collect();
    let is_chosen = |at: usize| {
        let same: Vec<usize> = (0..kinds.len()).filter(|i| kinds[*i] == kinds[at]).collect();
        let last = same.len() - 1;
        at == same[last] || last > 1 && (at == same[0] || at == same[last / 2])
    };
    let mut at = 0..moments.len();
    moments.into_iter().filter(|_| at.next().is_some_and(is_chosen)).collect()
}

/// The kind of a step: its verb and the name of its file, with every number replaced.
fn kind(step: &str) -> String {
    let (verb, path) = step.split_at(step.find('/').unwrap_or(step.len()));
    let name = path.rsplit('/').next().unwrap_or_default();
    let hex = |c: char| c.is_ascii_digit() || name.contains(':') && c.is_ascii_hexdigit();
    format!("{verb}{}", name.replace(hex, ""))
}

/// Whether a message to libvirt changes nothing.
pub(crate) fn is_question(step: &str) -> bool {
    let words = ["Get", "Lookup", "List", "Is", "Has", "Open", "NumOf", "Recv"];
    step.starts_with("libvirt: ") && words.iter().any(|word| step.contains(word))
}

/// A text with `*` for the random part of the tools' names.
pub(crate) fn anonymous(text: &str) -> String {
    let random = |part: &&str| part.len() == 15 && part.bytes().all(|b| b.is_ascii_alphanumeric());
    let parts: Vec<&str> =
        text.split('.').map(|part| if random(&part) { "*" } else { part }).collect();
    parts.join(".")
}

/// Traces a program, its threads and its children. (ptrace(2) binds all of it to one thread.)
struct Tracer<'a> {
    others: &'a (dyn Fn() + Sync),
    tool: &'a str,
    program: Pid,
    stroke: Option<(Moment, Fate)>,
    steps: Vec<String>,
    struck: bool,
    /// The signal that ended the program.
    signal: Option<Signal>,
    /// The function of libvirt that each thread is in.
    calls: HashMap<Pid, String>,
    /// The event to cause when this thread's system call returns.
    pending: Option<(Pid, Fate)>,
}

impl<'a> Tracer<'a> {
    fn new(
        others: &'a (dyn Fn() + Sync),
        tool: &'a str,
        program: Pid,
        stroke: Option<(Moment, Fate)>,
    ) -> Self {
        Self {
            others,
            tool,
            program,
            stroke,
            steps: Vec::new(),
            struck: false,
            signal: None,
            calls: HashMap::new(),
            pending: None,
        }
    }

    /// Continues the program and traces it to its end.
    fn trace(mut self, mut go: ChildStdin) -> Self {
        use ptrace::Options;
        let follow = Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_TRACESECCOMP;
        ptrace::seize(self.program, follow | Options::PTRACE_O_TRACESYSGOOD).unwrap();
        ptrace::interrupt(self.program).unwrap();
        go.write_all(b"\n").unwrap();
        drop(go);
        // Waits only for children of this thread, because other tests have children.
        let ours = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        while let Ok(status) = waitpid(None, Some(ours)) {
            let signal = match status {
                WaitStatus::PtraceSyscall(task)
                | WaitStatus::PtraceEvent(task, _, libc::PTRACE_EVENT_SECCOMP) => {
                    self.at_system_call(task);
                    None
                }
                WaitStatus::Stopped(_, signal) => Some(signal),
                WaitStatus::Signaled(task, signal, _) if task == self.program => {
                    self.signal = Some(signal);
                    None
                }
                _ => None,
            };
            // A killed task cannot continue.
            status.pid().map(|task| match self.pending {
                None => ptrace::cont(task, signal),
                Some(_) => ptrace::syscall(task, signal),
            });
        }
        self
    }

    fn at_system_call(&mut self, task: Pid) {
        let Ok(registers) = ptrace::getregs(task) else {
            return; // killed
        };
        let call = Call::new(task, &registers);
        if let Some(function) = call.logged() {
            self.calls.insert(task, function);
            return;
        }
        let step = call.step(self.calls.get(&task));
        let pending = self.pending.is_some_and(|(pending, _)| pending == task);
        if step.is_none() && !pending {
            return;
        }
        let Ok(info) = ptrace::syscall_info(task) else {
            return;
        };
        if info.op == libc::PTRACE_SYSCALL_INFO_EXIT {
            if let Some((_, fate)) = self.pending.take_if(|(pending, _)| *pending == task) {
                self.strike(task, fate);
            }
            return;
        }
        let exe = fs::read_link(format!("/proc/{task}/exe")).unwrap_or_default();
        let exe = exe.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(step) = step.filter(|_| !self.steps.is_empty() || exe == self.tool) else {
            return; // not begun
        };
        let step = if exe == self.tool { step } else { format!("{exe}: {step}") };
        self.steps.push(step);
        self.meet(task);
    }

    /// Causes the event at the entry of the last recorded step, if its moment has come.
    fn meet(&mut self, task: Pid) {
        let Some((moment, fate)) = &self.stroke else { return };
        let times = |step: &str| self.steps.iter().filter(|other| *other == step).count();
        let here = self.steps.last().is_some_and(|step| *step == moment.step);
        if self.struck || !here || times(&moment.step) < moment.nth {
            return;
        }
        self.struck = true;
        match *fate {
            fate if moment.after => self.pending = Some((task, fate)),
            Fate::Error(_) => {
                let mut registers = ptrace::getregs(task).unwrap();
                registers.orig_rax = u64::MAX; // no such call
                ptrace::setregs(task, registers).unwrap();
                self.pending = Some((task, *fate));
            }
            fate => self.strike(task, fate),
        }
    }

    fn strike(&self, task: Pid, fate: Fate) {
        match fate {
            Fate::Signal(signal) => kill(self.program, signal).unwrap(),
            Fate::Error(error) => {
                let mut registers = ptrace::getregs(task).unwrap();
                registers.rax = -i64::from(error as i32) as u64;
                ptrace::setregs(task, registers).unwrap();
            }
            Fate::NoLibvirtd(delay) => {
                std::thread::sleep(delay);
                (self.others)();
            }
            Fate::Act => (self.others)(),
        }
    }
}

/// A system call that is about to be made.
struct Call {
    task: Pid,
    number: libc::c_long,
    arguments: [u64; 4],
}

impl Call {
    fn new(task: Pid, registers: &libc::user_regs_struct) -> Self {
        let arguments = [registers.rdi, registers.rsi, registers.rdx, registers.r10];
        Self { task, number: registers.orig_rax as libc::c_long, arguments }
    }

    /// The function of libvirt that the line for libvirt's log names.
    fn logged(&self) -> Option<String> {
        if self.number != libc::SYS_write || self.file(0)? != Path::new("/dev/null") {
            return None;
        }
        let line = self.memory(self.arguments[1], 200);
        let line = String::from_utf8_lossy(&line);
        let function = line.split_once(": debug : ")?.1.split(':').next()?;
        Some(function.trim_end_matches("Internal").to_owned())
    }

    /// The step of this call; none if the call changes nothing outside.
    fn step(&self, libvirt: Option<&String>) -> Option<String> {
        let creates = |flags: u64| flags as i32 & (libc::O_CREAT | libc::O_TRUNC) != 0;
        let on_file = |verb: &str| Some(format!("{verb} {}", place(&self.file(0)?)));
        let on_path = |verb: &str, at: usize| Some(format!("{verb} {}", place(&self.path(at)?)));
        let at_directory = |verb: &str| Some(format!("{verb} {}", place(&self.path_below(0, 1)?)));
        let renames =
            |from: PathBuf, to: PathBuf| Some(format!("rename {} to {}", place(&from), place(&to)));
        match self.number {
            libc::SYS_write
            | libc::SYS_sendto
            | libc::SYS_sendmsg
            | libc::SYS_writev
            | libc::SYS_pwrite64
            | libc::SYS_pwritev => match self.file(0)? {
                file if file.starts_with("/dev") => None,
                file if file.is_absolute() => Some(format!("write {}", place(&file))),
                file if file.to_string_lossy().starts_with("socket:") => {
                    Some(format!("libvirt: {}", libvirt?))
                }
                _ if self.arguments[0] == 1 => Some("print the document".to_owned()),
                _ => None,
            },
            libc::SYS_open if creates(self.arguments[1]) => on_path("create", 0),
            libc::SYS_openat if creates(self.arguments[2]) => match self.path_below(0, 1)? {
                log if log == Path::new("/dev/null") => None,
                path => Some(format!("create {}", place(&path))),
            },
            libc::SYS_creat => on_path("create", 0),
            libc::SYS_mkdir => on_path("make directory", 0),
            libc::SYS_mkdirat => at_directory("make directory"),
            libc::SYS_rmdir => on_path("remove directory", 0),
            libc::SYS_unlink => on_path("delete", 0),
            libc::SYS_unlinkat => at_directory("delete"),
            libc::SYS_rename | libc::SYS_link => renames(self.path(0)?, self.path(1)?),
            libc::SYS_renameat | libc::SYS_renameat2 | libc::SYS_linkat => {
                renames(self.path_below(0, 1)?, self.path_below(2, 3)?)
            }
            libc::SYS_symlink => on_path("link", 1),
            libc::SYS_symlinkat => Some(format!("link {}", place(&self.path_below(1, 2)?))),
            libc::SYS_truncate => on_path("set the length of", 0),
            libc::SYS_ftruncate => on_file("set the length of"),
            libc::SYS_fallocate => on_file("allocate"),
            libc::SYS_copy_file_range => self.file(2).map(|to| format!("copy to {}", place(&to))),
            libc::SYS_ioctl if self.arguments[1] == FICLONE => on_file("clone to"),
            libc::SYS_fsync | libc::SYS_fdatasync => on_file("flush"),
            libc::SYS_setxattr => on_path("set an attribute of", 0),
            libc::SYS_fsetxattr => on_file("set an attribute of"),
            libc::SYS_chmod => on_path("set the mode of", 0),
            libc::SYS_fchmodat => at_directory("set the mode of"),
            libc::SYS_fchmod => on_file("set the mode of"),
            libc::SYS_chown | libc::SYS_lchown => on_path("set the owner of", 0),
            libc::SYS_fchownat => at_directory("set the owner of"),
            libc::SYS_fchown => on_file("set the owner of"),
            libc::SYS_flock => on_file("lock"),
            libc::SYS_execve => {
                let program = self.path(0).filter(|program| program.exists())?;
                Some(format!("start {}", program.file_name()?.to_string_lossy()))
            }
            _ => None,
        }
    }

    /// The open file of a file-descriptor argument.
    fn file(&self, at: usize) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/fd/{}", self.task, self.arguments[at] as i32)).ok()
    }

    /// The path in an argument.
    fn path(&self, at: usize) -> Option<PathBuf> {
        let bytes = self.memory(self.arguments[at], 4096);
        let path = bytes.split(|byte| *byte == 0).next()?;
        Some(OsStr::from_bytes(path).into())
    }

    /// The path in an argument; a relative path is below the open directory of another argument.
    fn path_below(&self, directory: usize, at: usize) -> Option<PathBuf> {
        let path = self.path(at)?;
        Some(match self.file(directory).filter(|_| path.is_relative()) {
            Some(directory) => directory.join(path),
            None => path,
        })
    }

    fn memory(&self, address: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        let memory = File::open(format!("/proc/{}/mem", self.task));
        let read = memory.and_then(|memory| memory.read_at(&mut bytes, address));
        bytes.truncate(read.unwrap_or(0));
        bytes
    }
}

/// Source: linux/fs.h.
const FICLONE: u64 = 0x4004_9409;

/// A short form of a path.
fn place(path: &Path) -> String {
    let path = path.to_string_lossy();
    let path = path.trim_end_matches(" (deleted)");
    let short = [
        ("/var/lib/libvirt/images", "pool"),
        ("/run/tdx-pool", "locks"),
        ("/run/lock/tdx", "locks"),
    ];
    let place = short
        .iter()
        .find_map(|(folder, name)| Some(format!("{name}{}", path.strip_prefix(folder)?)));
    let place = place.unwrap_or_else(|| match path {
        path if path.starts_with("/dev/loop") => "the disk".to_owned(),
        path if path.starts_with("/proc/self/fd/") => "a new file".to_owned(),
        path => path.to_owned(),
    });
    // A file without a name: O_TMPFILE in memory.
    let nameless = |at: usize| place[at + 2..].bytes().all(|b| b.is_ascii_digit());
    match place.rfind("/#").filter(|at| nameless(*at)) {
        Some(at) => format!("{}/*", &place[..at]),
        None => anonymous(&place),
    }
}
