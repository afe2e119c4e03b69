//! The flags that choose a scenario and change its settings.

use std::path::PathBuf;

use clap::Args;
use common::Result;
use common::cli::Context;
use serde_json::Value;

use crate::scenario::assignments::{Assignment, Assignments, FlagSetting};
use crate::scenario::library::{DEFAULT, Scenario};

/// The flags that change settings of a scenario.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Scenario")]
pub struct AssignmentArgs {
    /// Change one setting, such as guest.video=none (repeatable); tdx-td scenario show NAME lists all
    /// settings
    #[arg(long, value_name = "SETTING=VALUE")]
    set: Vec<Assignment>,
    /// File of settings that override the scenario's, in the format of virt-scenario's
    /// virtscenario.yaml
    #[arg(long, value_name = "FILE")]
    user_settings: Option<PathBuf>,
}

impl AssignmentArgs {
    /// Returns the assignments of the flags.
    pub fn assignments(&self) -> Assignments {
        Assignments { set: self.set.clone(), user_settings: self.user_settings.clone() }
    }
}

/// The flags that choose a scenario, and those that change its settings.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Scenario")]
pub struct ScenarioArgs {
    /// Kind of guest that supplies defaults: td, securevm, computation, desktop, or one defined in
    /// /etc/tdx/scenarios
    #[arg(long, value_name = "NAME")]
    pub scenario: Option<String>,
    /// The flags that change settings of the scenario.
    #[command(flatten)]
    pub assignments: AssignmentArgs,
    /// Machine type, as QEMU names it [default: q35]
    #[arg(long, value_name = "TYPE")]
    pub machine: Option<String>,
    /// Device to boot from: hd, cdrom, fd or network [default: hd]
    #[arg(long, value_name = "DEVICE")]
    pub boot: Option<String>,
}

impl ScenarioArgs {
    /// Finds the scenario of `--scenario`, or the built-in defaults without that flag.
    ///
    /// Errors: those of [`Scenario::find`].
    pub fn scenario(&self, context: &Context) -> Result<Scenario> {
        Scenario::find(&context.host, self.scenario.as_deref().unwrap_or(DEFAULT))
    }

    /// Returns the settings of `--machine` and `--boot`.
    pub fn flag_settings(&self) -> [FlagSetting; 2] {
        let machine = self.machine.clone().map(Value::from);
        let boot = self.boot.clone().map(Value::from);
        [
            FlagSetting { flag: "--machine", setting: "guest.machine", value: machine },
            FlagSetting { flag: "--boot", setting: "guest.boot", value: boot },
        ]
    }
}
