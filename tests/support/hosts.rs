//! Typical machines, with the ids and the layout of real ones.

use super::tree::{Spec, Tree};

const NAMES: &str = "\
8086  Intel Corporation
\t1521  I350 Gigabit Network Connection
10de  NVIDIA Corporation
\t2330  GH100 [H100 SXM5 80GB]
\t22a3  GH100 [H100 NVSwitch]
144d  Samsung Electronics Co Ltd
\ta824  NVMe SSD Controller PM173X
15b3  Mellanox Technologies
\t101e  ConnectX Family mlx5Gen Virtual Function
\t1021  MT2910 Family [ConnectX-7]
C 01  Mass storage controller
\t08  Non-Volatile memory controller
C 02  Network controller
\t00  Ethernet controller
C 03  Display controller
\t00  VGA compatible controller
\t02  3D controller
C 06  Bridge
\t00  Host bridge
\t04  PCI bridge
\t80  Bridge
";

const FLR: &[(&str, &str)] = &[("reset_method", "flr bus"), ("numa_node", "0")];

fn port(group: u32) -> Spec<'static> {
    let ids = "8086:352a:8086:0000";
    Spec { ids, class: "060400", driver: "pcieport", group: Some(group), more: &[] }
}

fn endpoint(
    ids: &'static str,
    class: &'static str,
    driver: &'static str,
    group: u32,
) -> Spec<'static> {
    Spec { ids, class, driver, group: Some(group), more: FLR }
}

/// A server with eight GPUs and four switches between them, a mirrored system disk on LVM, a network
/// card with virtual functions, and the management controller's graphics.
pub(crate) fn server() -> Tree {
    let mut tree = Tree::new();
    tree.file("usr/share/misc/pci.ids", NAMES);
    let mut group = 0;
    let mut next = || {
        group += 1;
        group
    };
    // Root buses 0x10 to 0x80; behind the port of each: a switch, a GPU, and a network card or an NVMe disk.
    for index in 0..8_u32 {
        let bus = 0x10 * (index + 1);
        let root = format!("0000:{bus:02x}");
        let bdf = |offset: u32, rest: &str| format!("0000:{:02x}:{rest}", bus + offset);
        tree.device(&root, &bdf(0, "01.0"), port(next()));
        tree.device(&bdf(0, "01.0"), &bdf(1, "00.0"), port(next()));
        tree.device(&bdf(1, "00.0"), &bdf(2, "00.0"), port(next()));
        tree.device(&bdf(1, "00.0"), &bdf(2, "01.0"), port(next()));
        let driver = if index == 7 { "vfio-pci" } else { "nvidia" };
        let mut gpu = endpoint("10de:2330:10de:16c1", "030200", driver, next());
        let serial = [
            ("reset_method", "flr bus"),
            ("numa_node", "1"),
            ("serial_number", "48-b0-2d-ff-fe-12-34-56"),
        ];
        if index == 4 {
            gpu.more = &serial;
        }
        tree.device(&bdf(2, "00.0"), &bdf(3, "00.0"), gpu);
        if index < 4 {
            let switch = endpoint("10de:22a3:10de:1796", "068000", "nvidia-nvswitch", next());
            tree.device(&bdf(2, "01.0"), &bdf(4, "00.0"), switch);
        }
    }
    let host_bridge =
        Spec { ids: "8086:3258", class: "060000", driver: "", group: Some(next()), more: &[] };
    tree.device("0000:00", "0000:00:00.0", host_bridge);
    // The two halves of the mirror.
    for (index, bus) in [(0_u32, 0xa0), (1, 0xb0)] {
        let (root, above) = (format!("0000:{bus:02x}"), format!("0000:{bus:02x}:01.0"));
        let disk = format!("0000:{:02x}:00.0", bus + 1);
        tree.device(&root, &above, port(next()));
        tree.device(&above, &disk, endpoint("144d:a824:144d:a801", "010802", "nvme", next()));
        let below = format!("nvme/nvme{index}");
        let name = format!("nvme{index}n1");
        tree.disk(&disk, &below, &name, (259, 8 * index), 2);
        let folder = format!("{}/{below}", tree.folder(&disk));
        tree.file(&format!("{folder}/model"), "SAMSUNG MZWLR3T8HBLS-00007\n");
        tree.file(&format!("{folder}/{name}/size"), "7501476528\n");
    }
    tree.stacked("md0", "9:0", &["nvme0n1p2", "nvme1n1p2"]);
    tree.stacked("dm-0", "253:0", &["md0"]);
    tree.file("sys/class/block/dm-0/dm/name", "vg-root\n");
    // The network: one of two physical functions has virtual functions, and the default route.
    tree.device("0000:c0", "0000:c0:01.0", port(next()));
    let nic = [("reset_method", "flr bus"), ("sriov_totalvfs", "16"), ("sriov_numvfs", "2")];
    let mut pf = endpoint("15b3:1021:15b3:0041", "020000", "mlx5_core", next());
    pf.more = &nic;
    tree.device("0000:c0:01.0", "0000:c1:00.0", pf);
    let nic = [("reset_method", "flr bus"), ("sriov_totalvfs", "16"), ("sriov_numvfs", "0")];
    let mut pf = endpoint("15b3:1021:15b3:0041", "020000", "mlx5_core", next());
    pf.more = &nic;
    tree.device("0000:c0:01.0", "0000:c1:00.1", pf);
    for function in [2, 3] {
        let link = format!("-> {}", tree.folder("0000:c1:00.0"));
        let more = [("physfn", link.as_str()), ("reset_method", "flr")];
        let driver = if function == 2 { "mlx5_vfio_pci" } else { "" };
        let mut vf = endpoint("15b3:101e:15b3:0041", "020000", driver, next());
        vf.more = &more;
        tree.device("0000:c0:01.0", &format!("0000:c1:00.{function}"), vf);
    }
    tree.interface("0000:c1:00.0", "ens1f0np0");
    tree.interface("0000:c1:00.1", "ens1f1np1");
    tree.file(
        "proc/net/route",
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT\n\
         ens1f1np1\t00000000\t0102000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
         ens1f1np1\t0002000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
    );
    // The management controller's graphics, behind a bridge to conventional PCI.
    tree.device("0000:d0", "0000:d0:01.0", port(next()));
    let both = next();
    let old = Spec { ids: "1a03:1150", class: "060400", driver: "", group: Some(both), more: &[] };
    tree.device("0000:d0:01.0", "0000:d1:00.0", old);
    let vga = [("boot_vga", "1")];
    let vga = Spec {
        ids: "1a03:2000:1a03:2000",
        class: "030000",
        driver: "ast",
        group: Some(both),
        more: &vga,
    };
    tree.device("0000:d1:00.0", "0000:d2:00.0", vga);
    tree.file(
        "proc/self/mountinfo",
        "22 1 253:0 / / rw,relatime shared:1 - ext4 /dev/mapper/vg-root rw\n\
         23 22 0:21 / /proc rw,nosuid shared:5 - proc proc rw\n\
         30 22 259:1 / /boot/efi rw,relatime shared:9 - vfat /dev/nvme0n1p1 rw\n",
    );
    tree.file("proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/mapper/vg-root intel_iommu=on\n");
    // The kernel's default settings of memory.
    for (path, text) in [
        ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
        ("sys/kernel/mm/ksm/run", "0\n"),
        ("sys/kernel/mm/ksm/merge_across_nodes", "1\n"),
        ("sys/kernel/mm/ksm/pages_shared", "0\n"),
        ("proc/sys/vm/swappiness", "60\n"),
    ] {
        tree.file(path, text);
    }
    tree
}

/// A desktop whose slots share IOMMU groups: a GPU with three companion functions; two network cards and a
/// USB controller behind a chipset without ACS, which the kernel command line overrides.
pub(crate) fn desktop() -> Tree {
    let mut tree = Tree::new();
    let amd = |class, driver, group| Spec {
        ids: "1022:14db",
        class,
        driver,
        group: Some(group),
        more: &[],
    };
    tree.device("0000:00", "0000:00:00.0", amd("060000", "", 0));
    tree.device("0000:00", "0000:00:01.1", amd("060400", "pcieport", 1));
    let vga = [("boot_vga", "1"), ("reset_method", "bus")];
    let mut gpu = endpoint("10de:2684:10de:16f3", "030000", "nouveau", 2);
    gpu.more = &vga;
    tree.device("0000:00:01.1", "0000:01:00.0", gpu);
    let bus = [("reset_method", "bus")];
    for (function, class, driver) in
        [(1, "040300", "snd_hda_intel"), (2, "0c0330", "xhci_hcd"), (3, "0c8000", "")]
    {
        let companion = Spec { ids: "10de:22ba", class, driver, group: Some(2), more: &bus };
        tree.device("0000:00:01.1", &format!("0000:01:00.{function}"), companion);
    }
    let connector = format!("{}/drm/card0/card0-DP-1", tree.folder("0000:01:00.0"));
    tree.file(&format!("{connector}/status"), "connected\n");
    tree.link("sys/class/drm/card0-DP-1", &connector);

    tree.device("0000:00", "0000:00:02.1", amd("060400", "pcieport", 3));
    tree.device("0000:00:02.1", "0000:02:00.0", amd("060400", "pcieport", 3));
    for device in 0..4 {
        tree.device(
            "0000:02:00.0",
            &format!("0000:03:{device:02x}.0"),
            amd("060400", "pcieport", 3),
        );
    }
    tree.device("0000:03:00.0", "0000:04:00.0", endpoint("8086:15f3", "020000", "igc", 3));
    tree.device("0000:03:01.0", "0000:05:00.0", endpoint("144d:a80c", "010802", "nvme", 3));
    tree.device("0000:03:02.0", "0000:06:00.0", endpoint("1022:43f7", "0c0330", "xhci_hcd", 3));
    tree.device("0000:03:03.0", "0000:07:00.0", endpoint("14c3:0616", "028000", "vfio-pci", 3));
    tree.disk("0000:05:00.0", "nvme/nvme0", "nvme0n1", (259, 0), 3);
    tree.interface("0000:04:00.0", "enp4s0");
    let bridge = "/sys/devices/virtual/net/br0";
    tree.file(&format!("{bridge}/operstate"), "up\n");
    tree.link("sys/class/net/br0", bridge);
    tree.link(&format!("{}/net/enp4s0/master", tree.folder("0000:04:00.0")), bridge);
    tree.link(&format!("{bridge}/lower_enp4s0"), "sys/class/net/enp4s0");
    tree.file(
        "proc/net/ipv6_route",
        format!(
            "{zero} 00 {zero} 00 {zero} 00000400 00000001 00000000 00450003 br0\n",
            zero = "0".repeat(32)
        ),
    );
    let keyboard = format!(
        "{}/usb1/1-2/1-2:1.0/0003:046D:C31C.0001/input/input3",
        tree.folder("0000:06:00.0")
    );
    tree.file(&format!("{keyboard}/name"), "Logitech USB Keyboard\n");
    tree.link("sys/class/input/input3", &keyboard);
    // btrfs with a device number that belongs to no device, and swap.
    tree.link(
        "sys/fs/btrfs/6f5c/devices/nvme0n1p2",
        &format!("{}/nvme/nvme0/nvme0n1/nvme0n1p2", tree.folder("0000:05:00.0")),
    );
    tree.file(
        "proc/self/mountinfo",
        "22 1 0:24 /@ / rw,relatime shared:1 - btrfs /dev/nvme0n1p2 rw,subvol=/@\n\
         31 22 0:24 /@home /home rw,relatime shared:1 - btrfs /dev/nvme0n1p2 rw,subvol=/@home\n",
    );
    tree.file(
        "proc/swaps",
        "Filename\tType\tSize\tUsed\tPriority\n/dev/nvme0n1p3 partition 8388604 0 -2\n",
    );
    tree.file("proc/cmdline", "root=UUID=6f5c pcie_acs_override=downstream,multifunction quiet\n");
    tree
}

/// A laptop whose IOMMU is off.
pub(crate) fn laptop() -> Tree {
    let mut tree = Tree::new();
    let device = |ids, class, driver, more| Spec { ids, class, driver, group: None, more };
    tree.device("0000:00", "0000:00:00.0", device("8086:9a14:1028:0a36", "060000", "", &[]));
    let vga: &[_] = &[("boot_vga", "1"), ("reset_method", "flr")];
    tree.device("0000:00", "0000:00:02.0", device("8086:9a49:1028:0a36", "030000", "i915", vga));
    // A disk behind a controller that creates a PCI domain of its own.
    tree.device("0000:00", "0000:00:0e.0", device("8086:9a0b", "010400", "vmd", &[]));
    let vmd = format!("{}/pci10000:e0", tree.folder("0000:00:0e.0"));
    let root = vmd.strip_prefix("/sys/devices/pci").map(str::to_owned);
    tree.device(
        root.as_deref().unwrap_or_default(),
        "10000:e0:06.0",
        device("8086:9a09", "060400", "pcieport", &[]),
    );
    tree.device("10000:e0:06.0", "10000:e1:00.0", device("15b7:5006", "010802", "nvme", FLR));
    tree.disk("10000:e1:00.0", "nvme/nvme0", "nvme0n1", (259, 0), 1);
    // A sleeping GPU, which a scan must not wake to read its serial number.
    tree.device("0000:00", "0000:00:06.0", device("8086:9a09", "060400", "pcieport", &[]));
    let asleep: &[_] = &[("power_state", "D3cold"), ("reset_method", "bus"), ("boot_vga", "0")];
    tree.device(
        "0000:00:06.0",
        "0000:01:00.0",
        device("10de:25a2:1028:0a36", "030200", "nvidia", asleep),
    );
    tree.file("proc/self/mountinfo", "22 1 259:1 / / rw - ext4 /dev/nvme0n1p1 rw\n");
    tree.file("proc/cmdline", "root=/dev/nvme0n1p1 quiet\n");
    tree
}

/// A machine without PCI.
pub(crate) fn empty() -> Tree {
    Tree::new()
}
