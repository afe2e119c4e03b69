//! Checks of KVM and vsock, and of the access to KVM and libvirt.

use crate::host::check::code::HostCode;
use crate::host::check::facts::{Fact, Facts, Kvm};
use crate::host::check::guest_kind::GuestKind;
use crate::host::check::item::CheckItem;

/// Checks what every guest needs.
pub fn judge(facts: &Facts, kinds: &[GuestKind]) -> Vec<CheckItem> {
    let needed = kinds.iter().any(|kind| *kind != GuestKind::None);
    vec![
        virtualization(facts, needed),
        kvm(facts, needed),
        kvm_access(facts),
        libvirt_access(facts),
        container(facts),
        vsock(facts),
    ]
}

/// Returns a failure if KVM is `needed`. Otherwise a warning: ordinary guests run in slow software emulation.
fn fail_or_warn(needed: bool, code: HostCode, found: String, fix: &str) -> CheckItem {
    if needed {
        code.fail(found, fix)
    } else {
        code.warn(format!("{found}; guests run in slow software emulation"), fix)
    }
}

fn virtualization(facts: &Facts, needed: bool) -> CheckItem {
    let code = HostCode::CpuVirtualization;
    let cpu = match &facts.cpu {
        Ok(cpu) => cpu,
        Err(why) => return code.unknown(why),
    };
    match ["vmx", "svm"].into_iter().find(|flag| cpu.flags.contains(*flag)) {
        Some(flag) => code.ok(flag),
        None => fail_or_warn(
            needed,
            code,
            "CPU flags vmx and svm are missing".to_owned(),
            "turn on VT-x or SVM in the BIOS; in a virtual machine, turn on nested virtualization on its host",
        ),
    }
}

fn kvm(facts: &Facts, needed: bool) -> CheckItem {
    let code = HostCode::Kvm;
    let cpu = facts.cpu.as_ref().ok();
    let hardware = cpu.is_none_or(|cpu| cpu.flags.contains("vmx") || cpu.flags.contains("svm"));
    let load = "modprobe kvm_intel or kvm_amd; in a container, pass the device /dev/kvm to it";
    match &facts.kvm {
        Kvm::Works(_) => code.ok("/dev/kvm works"),
        Kvm::Refused => code.unknown("this user may not open /dev/kvm"),
        Kvm::Unknown(why) => code.unknown(why),
        _ if !hardware => code.not_checked(HostCode::CpuVirtualization),
        Kvm::Absent => fail_or_warn(needed, code, "/dev/kvm does not exist".to_owned(), load),
        Kvm::Broken(why) => {
            fail_or_warn(needed, code, format!("/dev/kvm does not work: {why}"), load)
        }
    }
}

/// Checks whether this user may open `/dev/kvm`. libvirt opens it as another user, so this matters only for
/// QEMU without libvirt.
fn kvm_access(facts: &Facts) -> CheckItem {
    let code = HostCode::KvmAccess;
    match facts.kvm {
        Kvm::Works(_) | Kvm::Broken(_) => code.ok("this user may open /dev/kvm"),
        Kvm::Refused => code.warn(
            "permission denied; guests of libvirt run nevertheless",
            "usermod -aG kvm USER, then log in again",
        ),
        Kvm::Absent => code.not_applicable("/dev/kvm does not exist"),
        Kvm::Unknown(_) => code.not_applicable("not checked with --sysroot"),
    }
}

fn libvirt_access(facts: &Facts) -> CheckItem {
    let code = HostCode::LibvirtAccess;
    if !facts.this_machine {
        return code.not_applicable("not checked with --sysroot");
    }
    match groups(facts) {
        Err(why) => code.unknown(why),
        Ok(None) => code.ok("root"),
        Ok(Some(groups)) if groups.iter().any(|group| group == "libvirt") => {
            code.ok("this user is in the group libvirt")
        }
        Ok(Some(_)) => code.warn(
            "this user is not in the group libvirt: libvirt may ask for a password or refuse",
            "usermod -aG libvirt USER, then log in again",
        ),
    }
}

/// Returns the groups of this user; `None` for root.
///
/// Source: proc_pid_status(5), `Uid` and `Groups`; group(5).
fn groups(facts: &Facts) -> Fact<Option<Vec<String>>> {
    let status = facts.text("/proc/self/status")?.unwrap_or_default();
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let effective = field("Uid:").and_then(|ids| ids.split_whitespace().nth(1));
    if effective == Some("0") {
        return Ok(None);
    }
    let main = field("Gid:").and_then(|ids| ids.split_whitespace().nth(1));
    let ids: Vec<&str> =
        field("Groups:").unwrap_or_default().split_whitespace().chain(main).collect();
    let known = facts.text("/etc/group")?.unwrap_or_default();
    let fields = known.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let named = fields.filter(|group| group.get(2).is_some_and(|id| ids.contains(id)));
    Ok(Some(named.map(|group| group[0].to_owned()).collect()))
}

/// Checks that this is not a container.
///
/// Source: <https://systemd.io/CONTAINER_INTERFACE>; the files that Docker and Podman put into containers.
fn container(facts: &Facts) -> CheckItem {
    let code = HostCode::Container;
    let environment = facts.text("/proc/1/environ").ok().flatten().unwrap_or_default();
    let said = environment.split('\0').find_map(|word| word.strip_prefix("container="));
    let by_systemd = facts.text("/run/systemd/container").ok().flatten();
    let by_file = [("/.dockerenv", "docker"), ("/run/.containerenv", "podman")];
    let by_file = by_file.into_iter().find(|(file, _)| facts.has(file)).map(|(_, name)| name);
    match by_systemd.or(said).filter(|name| !name.is_empty()).or(by_file) {
        None => code.ok("no container detected"),
        Some(name) => code.warn(
            format!("this is a container ({name}), in which parts of the host may be invisible"),
            "run this command on the host, or pass /dev/kvm, /dev/vhost-vsock and libvirt's socket to the \
             container",
        ),
    }
}

fn vsock(facts: &Facts) -> CheckItem {
    let code = HostCode::VhostVsock;
    if facts.has("/dev/vhost-vsock") {
        code.ok("/dev/vhost-vsock exists")
    } else if !facts.has("/dev") {
        code.unknown("the --sysroot directory does not contain /dev")
    } else {
        code.warn("/dev/vhost-vsock does not exist", "modprobe vhost_vsock")
    }
}
