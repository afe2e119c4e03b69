//! Locks on the names of volumes that are being created, used or removed.
//!
//! A process locks a volume's name before it creates the volume, and keeps the lock until a domain or image refers to
//! the volume ([`InFlight`]). The kernel releases the lock when the process ends. A volume that is neither locked nor
//! referred to is an orphan, even if it is new.
//!
//! A process also locks a volume to which it is about to create a reference ([`UseLock`]), and a volume that it is
//! about to delete or replace ([`RemovalLock`]).
//!
//! Root's locks are in a directory in which only root can create files. Only members of the group that may use libvirt
//! can open them, so that other users cannot block root with a lock. The locks of other users are in a directory that
//! all users can write. In that directory, a lock has an effect only if its file has the group that may use libvirt,
//! which only members can set, and if only members can open the file.

mod creation;
mod directory;
mod lock_file;
mod membership;
#[cfg(test)]
mod tests;
mod volume_lock;

pub use creation::{InFlight, is_in_flight, sweep};
pub use volume_lock::{RemovalLock, UseLock};
