//! The record of devices that were taken from the host: what drove them, and who is at it.
//!
//! They are in /run: a record survives the tool, not a reboot, just as the binding.

use serde::{Deserialize, Serialize};

use crate::device_state::device_lock;
use crate::error::Result;
use crate::system::pci::Bdf;
use crate::system::sysroot::Host;

/// What tells a device from another one that is later found at its address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Vendor id.
    pub vendor: Option<u16>,
    /// Device id.
    pub device: Option<u16>,
    /// Vendor id of the card.
    pub subsystem_vendor: Option<u16>,
    /// Device id of the card.
    pub subsystem_device: Option<u16>,
    /// Class code.
    pub class: Option<u32>,
    /// Device serial number, where it has one.
    pub serial: Option<String>,
}

/// A device that was taken from the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its address.
    pub bdf: Bdf,
    /// What it is.
    pub identity: Identity,
    /// The driver that had it.
    pub driver: Option<String>,
    /// What its `driver_override` was.
    pub driver_override: Option<String>,
    /// The VFIO driver it was given to.
    pub bound_to: String,
    /// The UUID of the domain it was taken for; none when it was taken by itself.
    pub domain: Option<String>,
    /// Whether taking it was finished.
    pub committed: bool,
}

impl Identity {
    /// Whether what is known of both proves that they are two devices.
    ///
    /// What is unknown proves nothing: a device that sleeps in D3cold shows no serial number, and the
    /// subsystem of a device that does not answer cannot be read.
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

/// The record of a device that was taken from the host, as it was read.
pub type BoundRecord = device_lock::StoredRecord<Record>;

/// A device that is bound or given back, locked.
pub type BoundLock = device_lock::DeviceLock<Record>;

/// Every record, see [`device_lock::all`].
pub fn all(host: &Host) -> Result<Vec<Result<BoundRecord>>> {
    device_lock::all(host)
}

/// The record of one device, see [`device_lock::load`].
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
    fn a_record_is_live_then_stale_or_committed() {
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
    fn a_lock_without_a_record_is_seen_and_leaves_nothing() {
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
    fn damage_is_an_error_of_that_record_alone() {
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
    fn readers_do_not_keep_others_from_work() {
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
    fn unknown_is_not_different() {
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
