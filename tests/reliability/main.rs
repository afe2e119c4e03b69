//! Kills, failures and simultaneous commands.

#[allow(dead_code, reason = "a binary uses a part of it")]
#[path = "../support"]
mod support {
    pub(crate) mod disk;
    pub(crate) mod file_race;
    pub(crate) mod idle;
    pub(crate) mod kills;
    pub(crate) mod pool;
    pub(crate) mod race;
    pub(crate) mod rig;
    pub(crate) mod rig_state;
    pub(crate) mod steps;
    pub(crate) mod table;
    pub(crate) mod td;
    pub(crate) mod template;
    pub(crate) mod tools;
    pub(crate) mod tree;
    pub(crate) mod tuned;
    pub(crate) mod wait;
    pub(crate) mod world;
}

mod crash;
mod crowd;
mod faults;
mod hostile;
mod language;
