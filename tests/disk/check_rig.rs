//! `tdx-disk check` on a real kernel (rig 2). The kernel creates every way to use a disk; each must yield its
//! code, and a disk that nothing uses must be free.

use serde_json::Value;

use crate::support::kernel::Kernel;

/// Shell functions that create the situations. udev does not run here, and no command waits for it.
const PRELUDE: &str = r#"
set -eu
export DM_DISABLE_UDEV=1 MDADM_NO_UDEV=1
lvm_() { lvm "$@" --config 'devices { scan_lvs=0 use_devicesfile=0 } activation { udev_sync=0 udev_rules=0 monitoring=0 } global { use_lvmpolld=0 }' >/dev/null 2>&1; }
disk() { f=$(mktemp /dev/shm/disk.XXXXXX); truncate -s ${1:-64M} $f; losetup -fP --show $f; }
parts() { echo 'start=2048' | sfdisk -q $1; until_ "[ -b ${1}p1 ]"; }
ext4() { mke2fs -q -F -t ext4 "$@"; }
sectors() { blockdev --getsz $1; }
linear() { dmsetup create $2 ${3:+-u $3} --table "0 $(sectors $1) linear $1 0"; dmsetup mknodes; }
until_() { for _ in $(seq 600); do eval "$1" && return; sleep 0.1; done; return 1; }
opened() { until_ "ls -l /proc/$2/fd 2>/dev/null | grep -q '$1\$'"; }
there() { mkdir -p "/mnt/$1"; echo "/mnt/$1"; }
raid() { mdadm --create /dev/md$1 --run --level=1 --raid-devices=2 --metadata=$2 --assume-clean --force $3 missing >/dev/null 2>&1; }
"#;

/// A shell script that puts a disk to use and prints its name, and the codes that the disk must get; no codes
/// for a free disk.
type Situation = (&'static str, &'static [&'static str]);

const IN_USE: &[Situation] = &[
    (
        "grep -l '^rig-data *$' /sys/block/nvme*/device/serial | sed 's|/sys/block/\\(.*\\)/device.*|/dev/\\1|'",
        &["MOUNTED"],
    ),
    ("d=$(disk); ext4 $d; mount $d $(there whole); echo $d", &["MOUNTED"]),
    ("d=$(disk); ext4 $d; mount -o ro $d $(there ro); echo $d", &["MOUNTED"]),
    ("d=$(disk); parts $d; ext4 ${d}p1; mount ${d}p1 $(there part); echo $d", &["MOUNTED"]),
    (
        "d=$(disk); ext4 $d; m=$(there ns); unshare -m sh -c \"mount $d $m && exec sleep 100000\" >/dev/null 2>&1 & until_ \"grep -q ' $m ' /proc/$!/mounts\"; echo $d",
        &["MOUNTED"],
    ),
    (
        "d=$(disk); ext4 $d; m=$(there lazy); mount $d $m; sh -c \"cd $m && exec sleep 100000\" >/dev/null 2>&1 & until_ \"[ \\$(readlink /proc/$!/cwd) = $m ]\"; umount -l /mnt/lazy; echo $d",
        &["CLAIMED"],
    ),
    ("d=$(disk); ext4 $d; m=$(there 'a b'); mount $d \"$m\"; echo $d", &["MOUNTED"]),
    (
        "d=$(disk); ext4 $d; mkdir -p /boot/efi; mount $d /boot/efi; echo $d",
        &["MOUNTED", "SYSTEM_DISK"],
    ),
    ("d=$(disk); parts $d; ext4 ${d}p1; mount ${d}p1 /boot; echo $d", &["MOUNTED", "SYSTEM_DISK"]),
    ("d=$(disk); mkswap $d >/dev/null; swapon $d; echo $d", &["CLAIMED", "SWAP"]),
    ("d=$(disk); parts $d; mkswap ${d}p1 >/dev/null; swapon ${d}p1; echo $d", &["CLAIMED", "SWAP"]),
    (
        "d=$(disk); ext4 $d; m=$(there swapfile); mount $d $m; dd if=/dev/zero of=$m/f bs=1M count=4 2>/dev/null; chmod 600 $m/f; mkswap $m/f >/dev/null; swapon $m/f; echo $d",
        &["MOUNTED", "SWAP"],
    ),
    ("d=$(disk); linear $d plain; echo $d", &["HOLDERS"]),
    ("d=$(disk); parts $d; linear ${d}p1 onpart; echo $d", &["HOLDERS"]),
    (
        "d=$(disk); linear $d lower; linear /dev/mapper/lower upper; ext4 /dev/mapper/upper; mount /dev/mapper/upper $(there upper); echo $d",
        &["HOLDERS", "MOUNTED"],
    ),
    ("d=$(disk); linear $d mpatha mpath-3600; echo $d", &["MULTIPATH_PATH"]),
    (
        "d=$(disk); dmsetup create origin --table \"0 $(sectors $d) snapshot-origin $d\"; echo $d",
        &["HOLDERS"],
    ),
    (
        "d=$(disk); head -c 32 /dev/zero | cryptsetup open --type plain --cipher aes-xts-plain64 --key-size 256 --key-file - $d secret; echo $d",
        &["HOLDERS"],
    ),
    (
        "d=$(disk); lvm_ pvcreate $d; lvm_ vgcreate vg1 $d; lvm_ lvcreate -an -Zn -Wn -n lv -l 100%FREE vg1; lvm_ lvchange -ay vg1/lv; echo $d",
        &["HOLDERS", "SIGNATURE"],
    ),
    (
        "d=$(disk); parts $d; lvm_ pvcreate ${d}p1; lvm_ vgcreate vg2 ${d}p1; lvm_ lvcreate -an -Zn -Wn -n lv -l 100%FREE vg2; lvm_ lvchange -ay vg2/lv; ext4 /dev/mapper/vg2-lv; mount /dev/mapper/vg2-lv $(there lv); echo $d",
        &["HOLDERS", "MOUNTED", "SIGNATURE"],
    ),
    ("d=$(disk); lvm_ pvcreate $d; lvm_ vgcreate vg3 $d; echo $d", &["SIGNATURE"]),
    ("d=$(disk); lvm_ pvcreate $d; echo $d", &["SIGNATURE"]),
    ("d=$(disk); raid 1 1.2 $d; echo $d", &["HOLDERS", "SIGNATURE"]),
    (
        "d=$(disk); raid 2 1.0 $d; ext4 /dev/md2; mount /dev/md2 $(there md); echo $d",
        &["HOLDERS", "MOUNTED", "SIGNATURE"],
    ),
    ("d=$(disk); raid 3 1.1 $d; mdadm --stop /dev/md3 2>/dev/null; echo $d", &["SIGNATURE"]),
    ("d=$(disk); raid 4 0.90 $d; mdadm --stop /dev/md4 2>/dev/null; echo $d", &["SIGNATURE"]),
    (
        "d=$(disk); parts $d; raid 5 1.2 ${d}p1; mdadm --stop /dev/md5 2>/dev/null; echo $d",
        &["SIGNATURE"],
    ),
    (
        "a=$(disk 128M); d=$(disk 128M); mkfs.btrfs -q -f -d raid1 -m raid1 $a $d; btrfs device scan >/dev/null 2>&1; mount $a $(there btrfs); echo $d",
        &["MOUNTED", "SIGNATURE"],
    ),
    (
        "a=$(disk 128M); d=$(disk 128M); mkfs.btrfs -q -f -d raid1 -m raid1 $a $d; echo $d",
        &["SIGNATURE"],
    ),
    (
        "j=$(disk); d=$(disk); mke2fs -q -F -O journal_dev -b 4096 $j; mke2fs -q -F -t ext4 -b 4096 -J device=$j $d; mount $d $(there journal); echo $j",
        &["CLAIMED"],
    ),
    ("d=$(disk); sleep 100000 <$d >/dev/null 2>&1 & opened $d $!; echo $d", &["OPEN_FDS"]),
    (
        "d=$(disk); parts $d; sleep 100000 <${d}p1 >/dev/null 2>&1 & opened ${d}p1 $!; echo $d",
        &["OPEN_FDS"],
    ),
    (
        "d=$(disk); o=$(mktemp); stdbuf -oL qemu-io -f raw -c 'read 0 512' -c 'sleep 1000000000' $d >$o 2>&1 & until_ 'grep -q bytes $o'; echo $d",
        &["IN_USE_BY_VM", "QEMU_LOCK"],
    ),
    ("d=$(disk); losetup -f $d; echo $d", &["EXPORTED"]),
    (
        "d=$(disk); n=/sys/kernel/config/nvmet/subsystems/nqn.test; mkdir $n $n/namespaces/1; echo $d >$n/namespaces/1/device_path; echo 1 >$n/namespaces/1/enable; echo $d",
        &["EXPORTED"],
    ),
    (
        "d=$(disk); c=/sys/kernel/config/target/core; mkdir -p $c/iblock_0/test; echo udev_path=$d >$c/iblock_0/test/control; echo $d >$c/iblock_0/test/udev_path; echo 1 >$c/iblock_0/test/enable; echo $d",
        &["CLAIMED", "EXPORTED"],
    ),
    ("d=$(disk); blockdev --setro $d; echo $d", &["READ_ONLY"]),
    ("d=$(disk); parts $d; echo ${d}p1", &["IS_PARTITION"]),
    ("d=$(disk); losetup -d $d; echo $d", &["NO_MEDIUM"]),
    ("echo 16M >/sys/block/zram0/disksize; echo /dev/zram0", &["BAD_KIND"]),
    ("echo /dev/ram0", &["BAD_KIND"]),
    (
        "d=$(disk); n=$(cat /sys/block/${d#/dev/}/dev); echo $n >/sys/power/resume 2>/dev/null || true; echo $d",
        &["SYSTEM_DISK"],
    ),
];

const FREE: &[Situation] = &[
    (
        "for n in 0 1 2 3 4 5 6 7; do grep -l \"^rig-$n *$\" /sys/block/nvme*/device/serial | sed 's|/sys/block/\\(.*\\)/device.*|/dev/\\1|'; done",
        &[],
    ),
    ("disk", &[]),
    ("d=$(disk); parts $d; echo $d", &["HAS_DATA"]),
    ("d=$(disk); ext4 $d; echo $d", &["HAS_DATA"]),
    ("d=$(disk); parts $d; ext4 ${d}p1; echo $d", &["HAS_DATA"]),
    ("d=$(disk 128M); mkfs.btrfs -q -f $d; echo $d", &["HAS_DATA"]),
    ("d=$(disk); mkswap $d >/dev/null; echo $d", &["HAS_DATA"]),
    ("d=$(disk); ext4 $d; m=$(there once); mount $d $m; umount $m; echo $d", &["HAS_DATA"]),
    ("d=$(disk); linear $d once; dmsetup remove once; echo $d", &[]),
    (
        "d=$(disk); printf LUKS\\\\272\\\\276 | dd of=$d conv=notrunc 2>/dev/null; echo $d",
        &["HAS_DATA"],
    ),
    ("d=$(disk); linear $d map >/dev/null; echo /dev/mapper/map", &[]),
];

fn items(kernel: &Kernel, devices: &str) -> Vec<Value> {
    let run = kernel.tool("tdx-disk", ["check"].into_iter().chain(devices.split_whitespace()));
    let document: Value =
        serde_json::from_str(&run.stdout).unwrap_or_else(|error| panic!("{error}: {run:#?}"));
    let items = document["items"].as_array().cloned().unwrap_or_default();
    let free = items.iter().all(|item| item["available"] == true);
    assert_eq!(run.status, Some(if free { 0 } else { 10 }), "{run:#?}");
    items
}

fn codes(value: &Value, level: Option<&str>) -> Vec<String> {
    let findings = value["findings"].as_array().cloned().unwrap_or_default();
    let of_level = |f: &Value| level.is_none_or(|level| f["level"] == level);
    let codes = findings.iter().filter(|f| of_level(f)).filter_map(|f| f["code"].as_str());
    let mut codes: Vec<String> = codes.map(str::to_owned).collect();
    codes.sort();
    codes.dedup();
    codes
}

#[test]
#[ignore = "needs root"]
fn check_finds_every_use_of_a_disk_and_none_of_a_free_disk() {
    let kernel = Kernel::start();
    kernel.shell(
        "modprobe -a loop dm_mod dm_snapshot dm_crypt raid1 btrfs ext4 nvmet target_core_mod \
         target_core_iblock zram brd xts; mkdir -p /sys/kernel/config; \
         mount -t configfs none /sys/kernel/config 2>/dev/null; true",
    );
    // Situations that cannot be created are collected and reported at the end, because each restart of the
    // rig takes long.
    let make = |script: &str, wrong: &mut Vec<String>| {
        let run = kernel.shell(&format!("{PRELUDE}\n{script}"));
        let devices: Vec<&str> =
            run.stdout.lines().filter(|line| line.starts_with("/dev/")).collect();
        if run.status != Some(0) || devices.is_empty() {
            wrong.push(format!("{script}\n  cannot be made: {}", run.stderr));
            return None;
        }
        Some(devices.join(" "))
    };
    let mut wrong = Vec::new();
    let (mut refused, mut free) = (0, 0);
    for (script, expected) in FREE {
        let Some(devices) = make(script, &mut wrong) else { continue };
        for item in items(&kernel, &devices) {
            let mut notes = codes(&item, Some("note"));
            notes.retain(|code| code != "IDENTITY");
            if item["available"] != true || notes != *expected {
                wrong.push(format!("{script}\n  is not free: {item}"));
            }
            free += 1;
        }
    }
    for (script, expected) in IN_USE {
        let Some(device) = make(script, &mut wrong) else { continue };
        let found = items(&kernel, &device);
        let blockers: Vec<String> =
            serde_json::from_value(found[0]["blockers"].clone()).unwrap_or_default();
        // CLAIMED may accompany another code, but must not be the only code then.
        let named: Vec<&String> =
            blockers.iter().filter(|c| *c != "CLAIMED" || expected.contains(&"CLAIMED")).collect();
        if named != *expected {
            wrong.push(format!("{script}\n  expected {expected:?}: {}", found[0]));
        }
        refused += 1;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(refused >= 40 && free >= 15, "{refused} refused, {free} free");
}
