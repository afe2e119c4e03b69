//! `tdx-td show`: domains with everything known of them.

use clap::Args;
use common::Result;
use common::cli::Context;
use common::document::Document;
use common::libvirt::{Libvirt, State};
use common::output::Outcome;

use crate::addresses;
use crate::list::{Observer, complete};
use crate::names::{self, NameArgs};

/// Seconds to wait for a guest agent; one that is not there answers never.
const AGENT_TIMEOUT: i32 = 2;

/// Arguments of `show`.
#[derive(Debug, Args)]
pub struct ShowArgs {
    #[command(flatten)]
    names: NameArgs,
}

/// Shows the named domains, asking their guest agents for addresses too.
pub fn run(
    context: &Context,
    connect: impl FnOnce() -> Result<Libvirt>,
    args: ShowArgs,
) -> Result<Outcome> {
    let wanted = args.names.read()?;
    let libvirt = connect()?;
    let states = libvirt.domains()?;
    let observer = Observer::new(&context.host, &libvirt)?;
    let show = |name: &str| {
        let domain = names::get(&libvirt, name)?;
        let state = states.iter().find(|(known, _)| known.name().as_deref() == Ok(name));
        let item = observer.item(&domain, state.map_or(State::None, |(_, state)| *state))?;
        // Gone since it was looked up: the same answer as before it.
        let Some(mut item) = item else {
            return names::get(&libvirt, name).map(|_| None);
        };
        if item.state == State::Running {
            let ask = r#"{"execute":"guest-network-get-interfaces"}"#;
            let answer = domain.qemu_agent_command(ask, AGENT_TIMEOUT, 0).unwrap_or_default();
            for ip in addresses::of_agent(&answer) {
                if !item.ips.contains(&ip) {
                    item.ips.push(ip);
                }
            }
            complete(&mut item);
        }
        Ok(Some(item))
    };
    let items = names::each(&wanted, show, |_| None)?.into_iter().flatten().collect();
    Ok(Document::new("tdx.td.domains", items).into())
}
