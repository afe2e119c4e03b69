//! KVM, and whether it and libvirt are to be had from where this runs.

use crate::host::check::code::HostCode;
use crate::host::check::facts::{Fact, Facts, Kvm};
use crate::host::check::guest_kind::GuestKind;
use crate::host::check::item::CheckItem;

/// Judges what every guest needs.
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

/// What keeps protected guests from running, and lets ordinary ones run slowly.
fn fail_or_warn(needed: bool, code: HostCode, found: String, fix: &str) -> CheckItem {
    if needed {
        code.fail(found, fix)
    } else {
        code.warn(format!("{found}: guests are emulated, slowly"), fix)
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
            "neither vmx nor svm".to_owned(),
            "turn on VT-x or SVM in the BIOS; in a virtual machine, let its host nest",
        ),
    }
}

fn kvm(facts: &Facts, needed: bool) -> CheckItem {
    let code = HostCode::Kvm;
    let cpu = facts.cpu.as_ref().ok();
    let hardware = cpu.is_none_or(|cpu| cpu.flags.contains("vmx") || cpu.flags.contains("svm"));
    let load = "modprobe kvm_intel, or kvm_amd; in a container: give it the device /dev/kvm";
    match &facts.kvm {
        Kvm::Works(_) => code.ok("it opens and answers"),
        Kvm::Refused => code.unknown("it does not open for who runs this"),
        Kvm::Unknown(why) => code.unknown(why),
        _ if !hardware => code.not_applicable("follows from CPU_VIRTUALIZATION"),
        Kvm::Absent => fail_or_warn(needed, code, "there is no /dev/kvm".to_owned(), load),
        Kvm::Broken(why) => {
            fail_or_warn(needed, code, format!("/dev/kvm does not work: {why}"), load)
        }
    }
}

/// libvirt opens it as another user, so that this matters only to who runs QEMU by hand.
fn kvm_access(facts: &Facts) -> CheckItem {
    let code = HostCode::KvmAccess;
    match facts.kvm {
        Kvm::Works(_) | Kvm::Broken(_) => code.ok("it opens"),
        Kvm::Refused => code.warn(
            "permission denied; guests of libvirt run all the same",
            "usermod -aG kvm USER, and log in anew",
        ),
        Kvm::Absent => code.not_applicable("there is no /dev/kvm"),
        Kvm::Unknown(_) => code.not_applicable("nobody runs anything on a captured machine"),
    }
}

fn libvirt_access(facts: &Facts) -> CheckItem {
    let code = HostCode::LibvirtAccess;
    if !facts.this_machine {
        return code.not_applicable("nobody runs anything on a captured machine");
    }
    match groups(facts) {
        Err(why) => code.unknown(why),
        Ok(None) => code.ok("root"),
        Ok(Some(groups)) if groups.iter().any(|group| group == "libvirt") => code.ok("in libvirt"),
        Ok(Some(_)) => code.warn(
            "not in the group libvirt, so libvirt may ask for a password or refuse",
            "usermod -aG libvirt USER, and log in anew",
        ),
    }
}

/// The groups of who runs this; none for root.
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

/// Source: <https://systemd.io/CONTAINER_INTERFACE>; what Docker and Podman put into their containers.
fn container(facts: &Facts) -> CheckItem {
    let code = HostCode::Container;
    let environment = facts.text("/proc/1/environ").ok().flatten().unwrap_or_default();
    let said = environment.split('\0').find_map(|word| word.strip_prefix("container="));
    let by_systemd = facts.text("/run/systemd/container").ok().flatten();
    let by_file = [("/.dockerenv", "docker"), ("/run/.containerenv", "podman")];
    let by_file = by_file.into_iter().find(|(file, _)| facts.has(file)).map(|(_, name)| name);
    match by_systemd.or(said).filter(|name| !name.is_empty()).or(by_file) {
        None => code.ok("none is seen"),
        Some(name) => code.warn(
            format!("in a container ({name}): what is seen of the host may be little of it"),
            "run it on the host, or give the container /dev/kvm, /dev/vhost-vsock and libvirt's socket",
        ),
    }
}

fn vsock(facts: &Facts) -> CheckItem {
    let code = HostCode::VhostVsock;
    if facts.has("/dev/vhost-vsock") {
        code.ok("it is there")
    } else if !facts.has("/dev") {
        code.unknown("no /dev was captured")
    } else {
        code.warn("there is none", "modprobe vhost_vsock")
    }
}
