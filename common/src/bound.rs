//! The record of devices that were taken from the host: what drove them, and who is at it.
//!
//! They are in /run: a record survives the tool, not a reboot, just as the binding.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::host::Host;
use crate::lease;
use crate::pci::Bdf;

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

impl lease::Record for Record {
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

/// A record that was found.
pub type Found = lease::Found<Record>;

/// A record that is ours alone.
pub type Lease = lease::Lease<Record>;

/// Every record, see [`lease::all`].
pub fn all(host: &Host) -> Result<Vec<Result<Found>>> {
    lease::all(host)
}

/// The record of one device, see [`lease::of`].
pub fn of(host: &Host, bdf: Bdf) -> Result<Option<Found>> {
    lease::of(host, bdf)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::lease::Record as _;

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

    #[test]
    fn a_record_is_live_then_stale_or_committed() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        assert!(all(&host).unwrap().is_empty());
        let lease = Lease::begin(&host, record(0)).unwrap();
        let found = of(&host, record(0).bdf).unwrap().unwrap();
        assert!((found.live, found.is_stale()) == (true, false) && found.record == record(0));
        assert_eq!(Lease::begin(&host, record(0)).unwrap_err().kind(), crate::ErrorKind::Conflict);
        assert!(Lease::resume(&host, record(0)).is_err());

        drop(lease);
        assert!(of(&host, record(0).bdf).unwrap().unwrap().is_stale());
        let lease = Lease::resume(&host, record(0)).unwrap();
        lease.commit().unwrap();
        let found = of(&host, record(0).bdf).unwrap().unwrap();
        assert!((found.live, found.is_stale()) == (false, false));
        assert!(found.record.committed);

        Lease::begin(&host, record(1)).unwrap().forget().unwrap();
        assert_eq!(all(&host).unwrap().len(), 1);
        let names = fs::read_dir(host.path(Record::FOLDER)).unwrap().count();
        assert_eq!(names, 1, "something is left");
    }

    #[test]
    fn damage_is_an_error_of_that_record_alone() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        drop(Lease::begin(&host, record(0)).unwrap());
        drop(Lease::begin(&host, record(1)).unwrap());
        let path = |function| host.path(Record::FOLDER).join(record(function).bdf.to_string());
        fs::write(path(0), "{\"bdf\":").unwrap();
        fs::copy(path(1), host.path(Record::FOLDER).join("0000:18:00.0")).unwrap();
        let all = all(&host).unwrap();
        let good: Vec<bool> = all.iter().map(Result::is_ok).collect();
        assert_eq!(good, [false, true, false]);
    }

    #[test]
    fn who_looks_does_not_keep_others_from_work() {
        let root = tempfile::tempdir().unwrap();
        let host = Host::new(root.path());
        Lease::begin(&host, record(0)).unwrap().commit().unwrap();
        let look = || of(&host, record(0).bdf).unwrap().unwrap().live;
        std::thread::scope(|scope| {
            let looks = scope.spawn(|| (0..1000).filter(|_| look()).count());
            let more = (0..1000).filter(|_| look()).count();
            assert_eq!((looks.join().unwrap(), more), (0, 0), "looks disturb each other");
            scope.spawn(|| (0..1000).filter(|_| look()).count());
            (0..1000).for_each(|_| drop(Lease::resume(&host, record(0)).unwrap()));
        });
    }
}
