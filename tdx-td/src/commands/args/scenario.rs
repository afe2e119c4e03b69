//! Which scenario, and what is set over its settings.

use std::path::PathBuf;

use clap::Args;
use common::Result;
use common::cli::Context;
use serde_json::Value;

use crate::scenario::assignments::{Assignment, Assignments, FlagSetting};
use crate::scenario::library::{DEFAULT, Scenario};

/// The flags that change settings, whatever the scenario.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Scenario")]
pub struct AssignmentArgs {
    /// One setting, such as guest.video=none; tdx-td scenario show has them all
    #[arg(long, value_name = "SETTING=VALUE")]
    set: Vec<Assignment>,
    /// A file of settings over the scenario's, in the form of virt-scenario's virtscenario.yaml
    #[arg(long, value_name = "FILE")]
    user_settings: Option<PathBuf>,
}

impl AssignmentArgs {
    /// Returns what the flags assign.
    pub fn assignments(&self) -> Assignments {
        Assignments { set: self.set.clone(), user_settings: self.user_settings.clone() }
    }
}

/// The flags that choose settings.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Scenario")]
pub struct ScenarioArgs {
    /// What the guest is for: td, securevm, computation, desktop, or one of /etc/tdx/scenarios
    #[arg(long, value_name = "NAME")]
    pub scenario: Option<String>,
    /// Settings over it.
    #[command(flatten)]
    pub assignments: AssignmentArgs,
    /// The machine type, as QEMU names it [default: q35]
    #[arg(long, value_name = "TYPE")]
    pub machine: Option<String>,
    /// What to boot from: hd, cdrom, fd or network [default: hd]
    #[arg(long, value_name = "DEVICE")]
    pub boot: Option<String>,
}

impl ScenarioArgs {
    /// Finds the scenario; without one, what holds without any.
    ///
    /// Errors: those of [`Scenario::find`].
    pub fn scenario(&self, context: &Context) -> Result<Scenario> {
        Scenario::find(&context.host, self.scenario.as_deref().unwrap_or(DEFAULT))
    }

    /// Returns the settings that `--machine` and `--boot` stand for.
    pub fn flag_settings(&self) -> [FlagSetting; 2] {
        let machine = self.machine.clone().map(Value::from);
        let boot = self.boot.clone().map(Value::from);
        [
            FlagSetting { flag: "--machine", setting: "guest.machine", value: machine },
            FlagSetting { flag: "--boot", setting: "guest.boot", value: boot },
        ]
    }
}
