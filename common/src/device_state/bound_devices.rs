//! Records of devices that were taken from the host: the former driver of each, and the command that works on it.
//!
//! The records are in /run, because a binding ends with a reboot, and its record has to end with it.

use serde::{Deserialize, Serialize};

use crate::device_state::device_lock;
use crate::error::Result;
use crate::system::pci::Bdf;
use crate::system::sysroot::Host;

/// The properties that tell a device from another device that is later found at the same PCI address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Vendor id.
    pub vendor: Option<u16>,
    /// Device id.
    pub device: Option<u16>,
    /// Subsystem vendor id, which names the maker of the card.
    pub subsystem_vendor: Option<u16>,
    /// Subsystem device id, which names the card.
    pub subsystem_device: Option<u16>,
    /// Class code.
    pub class: Option<u32>,
    /// Device serial number, where it has one.
    pub serial: Option<String>,
}

/// A device that was taken from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The PCI address.
    pub bdf: Bdf,
    /// The properties that identify the device.
    pub identity: Identity,
    /// The driver that the device was bound to before.
    pub driver: Option<String>,
    /// The driver override before the device was taken.
    pub driver_override: Option<String>,
    /// The VFIO driver that the device was bound to.
    pub bound_to: String,
    /// The UUID of the domain that the device was taken for; none when no domain asked for it.
    pub domain: Option<String>,
    /// Whether the binding was finished.
    pub committed: bool,
}

impl Identity {
    /// Whether the known properties of both prove that they describe two different devices.
    ///
    /// An unknown property proves nothing: a device in power state D3cold shows no serial number, and the
    /// subsystem of a device that does not respond cannot be read.
    pub fn contradicts(&self, other: &Self) -> bool {
        fn differ<T: PartialEq>(one: &Option<T>, other: &Option<T>) -> bool {
            one.is_some() && other.is_some() && one != other
        }
        differ(&self.vendor, &other.vendor)
            || differ(&self.device, &other.device)
            || differ(&self.subsystem_vendor, &other.subsystem_vendor)
            || differ(&self.subsystem_device, &other.subsystem_device)
            || differ(&self.class, &other.class)
            || differ(&self.serial, &other.serial)
    }
}

impl device_lock::Record for Record {
    const FOLDER: &'static str = "/run/tdx/bound";

    fn bdf(&self) -> Bdf {
        self.bdf
    }

    fn is_committed(&self) -> bool {
        self.committed
    }

    fn commit(&mut self) {
        self.committed = true;
    }
}

/// The record of a device that was taken from the host, read without a lock.
pub type BoundRecord = device_lock::StoredRecord<Record>;

/// A lock on a device that is being bound or released.
pub type BoundLock = device_lock::DeviceLock<Record>;

/// Every record of a device that was taken from the host. See [`device_lock::all`].
pub fn all(host: &Host) -> Result<Vec<Result<BoundRecord>>> {
    device_lock::all(host)
}

/// The record of one device that was taken from the host. See [`device_lock::load`].
pub fn load(host: &Host, bdf: Bdf) -> Result<Option<BoundRecord>> {
    device_lock::load(host, bdf)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::device_state::device_lock::Record as _;

    fn record(function: u8) -> Record {
        let identity = Identity {
            vendor: Some(0x10de),
            device: Some(0x2330),
            subsystem_vendor: None,
            subsystem_device: None,
            class: Some(0x030200),
            serial: Some("48b02d1234567890".to_owned()),
        };
        Record {
            bdf: Bdf { domain: 0, bus: 0x17, device: 0, function },
            identity,
            driver: Some("nvidia".to_owned()),
            driver_override: None,
            bound_to: "vfio-pci".to_owned(),
            domain: None,
            committed: false,
        }
    }

    fn take(host: &Host, function: u8) -> BoundLock {
        BoundLock::take(host, record(function).bdf).unwrap()
    }

    fn stored(host: &Host) -> Option<(bool, bool)> {
        let stored = load(host, record(0).bdf).unwrap()?;
        Some((stored.live, stored.is_stale()))
    }

    fn files(host: &Host) -> usize {
        fs::read_dir(host.path(Record::FOLDER)).unwrap().count()
    }

    #[test]
    fn a_record_is_live_while_locked_and_then_stale_or_committed() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        assert!(all(&host).unwrap().is_empty());
        let mut lock = take(&host, 0);
        lock.write(record(0)).unwrap();
        assert_eq!(stored(&host), Some((true, false)));
        let error = BoundLock::take(&host, record(0).bdf).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::Conflict);

        drop(lock);
        assert_eq!(stored(&host), Some((false, true)));
        let lock = take(&host, 0);
        assert_eq!(lock.record(), Some(&record(0)));
        lock.commit().unwrap();
        assert_eq!(stored(&host), Some((false, false)));
        assert!(load(&host, record(0).bdf).unwrap().unwrap().record.committed);

        take(&host, 0).forget().unwrap();
        assert_eq!(files(&host), 0, "something is left");
    }

    #[test]
    fn a_lock_without_a_record_excludes_others_and_leaves_no_file() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let lock = take(&host, 0);
        assert!(BoundLock::take(&host, record(0).bdf).is_err());
        assert_eq!(load(&host, record(0).bdf).unwrap_err().kind(), crate::ErrorKind::Conflict);
        assert_eq!(all(&host).unwrap().len(), 1);
        drop(lock);
        assert_eq!(files(&host), 0);
        // What a kill leaves between the lock and the record: nothing is recorded.
        let path = host.path(Record::FOLDER).join(record(0).bdf.to_string());
        fs::write(&path, "").unwrap();
        fs::write(path.with_file_name(format!(".{}.commit", record(0).bdf)), "{").unwrap();
        assert!(load(&host, record(0).bdf).unwrap().is_none() && all(&host).unwrap().is_empty());
        assert!(take(&host, 0).record().is_none());
        assert_eq!(files(&host), 0);
    }

    #[test]
    fn a_lock_reads_the_record_that_replaced_the_one_seen_before() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let mut lock = take(&host, 0);
        lock.write(record(0)).unwrap();
        let path = host.path(Record::FOLDER).join(record(0).bdf.to_string());
        let seen = fs::File::open(&path).unwrap();
        lock.commit().unwrap();
        // Whoever had the old file open finds the new one.
        drop(nix::fcntl::Flock::lock(seen, nix::fcntl::FlockArg::LockExclusive).unwrap());
        assert!(take(&host, 0).record().unwrap().committed);
        assert_eq!(stored(&host), Some((false, false)));
    }

    #[test]
    fn a_damaged_record_is_an_error_of_that_record_only() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        for function in [0, 1] {
            take(&host, function).write(record(function)).unwrap();
        }
        let path = |function| host.path(Record::FOLDER).join(record(function).bdf.to_string());
        fs::write(path(0), "{\"bdf\":").unwrap();
        fs::copy(path(1), host.path(Record::FOLDER).join("0000:18:00.0")).unwrap();
        let all = all(&host).unwrap();
        let good: Vec<bool> = all.iter().map(Result::is_ok).collect();
        assert_eq!(good, [false, true, false]);
        assert!(BoundLock::take(&host, record(0).bdf).is_err());
        assert!(path(0).exists(), "a damaged record was removed");
    }

    #[test]
    fn readers_do_not_block_a_lock() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        let mut lock = take(&host, 0);
        lock.write(record(0)).unwrap();
        lock.commit().unwrap();
        let look = || load(&host, record(0).bdf).unwrap().unwrap().live;
        std::thread::scope(|scope| {
            let looks = scope.spawn(|| (0..1000).filter(|_| look()).count());
            let more = (0..1000).filter(|_| look()).count();
            assert_eq!((looks.join().unwrap(), more), (0, 0), "looks disturb each other");
            scope.spawn(|| (0..1000).filter(|_| look()).count());
            (0..1000).for_each(|_| drop(take(&host, 0)));
        });
    }

    /// A bind that commits while another command looks for stale records is not stale at any moment.
    #[test]
    fn a_record_that_is_being_committed_is_never_stale() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        std::thread::scope(|scope| {
            let work = scope.spawn(|| {
                for _ in 0..500 {
                    let mut lock = loop {
                        if let Ok(lock) = BoundLock::take(&host, record(0).bdf) {
                            break lock;
                        }
                    };
                    lock.write(record(0)).unwrap();
                    lock.commit().unwrap();
                    loop {
                        if let Ok(lock) = BoundLock::take(&host, record(0).bdf) {
                            break lock.forget().unwrap();
                        }
                    }
                }
            });
            while !work.is_finished() {
                if let Ok(Some(stored)) = load(&host, record(0).bdf) {
                    assert!(!stored.is_stale(), "{stored:?}");
                }
            }
        });
    }

    #[test]
    fn identities_with_unknown_properties_do_not_contradict() {
        let known = record(0).identity;
        let unknown = Identity { serial: None, subsystem_vendor: Some(1), ..known.clone() };
        assert!(!known.contradicts(&unknown) && !unknown.contradicts(&known));
        assert!(!known.contradicts(&known));
        for other in [
            Identity { serial: Some("1".to_owned()), ..known.clone() },
            Identity { device: Some(1), ..known.clone() },
            Identity { class: Some(1), ..known.clone() },
        ] {
            assert!(known.contradicts(&other) && other.contradicts(&known));
        }
    }
}
