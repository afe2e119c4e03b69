//! Refuses to change devices that a process has open through VFIO. The kernel would wait for the process, and a reset
//! would disturb its guest.

use common::system::pci::Bdf;
use common::system::sysroot::Host;
use common::{Code, Error, Result};
use tdx_iommu::inventory::Inventory;
use tdx_iommu::judge::holders::Holders;

/// Fails while a process has one of the devices open.
///
/// Errors: `conflict` with code `IN_USE_BY_VM`, which names the process.
pub fn refuse(
    host: &Host,
    inventory: &Inventory,
    devices: impl IntoIterator<Item = Bdf>,
) -> Result<()> {
    let devices: Vec<Bdf> = devices.into_iter().collect();
    let holders = Holders::of_vfio(host, inventory, devices.iter().copied())?;
    match devices.iter().find_map(|bdf| Some((bdf, holders.holders_of(*bdf).first()?))) {
        None => Ok(()),
        Some((bdf, holder)) => {
            let (command, pid, node) = (&holder.command, holder.pid, &holder.node);
            let message = format!("{bdf} is in use: process {pid} ({command}) has {node} open");
            Err(Error::conflict(message)
                .code(Code::InUseByVm)
                .hint("stop the guest, or end the process"))
        }
    }
}
