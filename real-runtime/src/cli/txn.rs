//! `stormglass txn`.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use clap::{Args, Subcommand};
use serde_json::Value;
use stormglass_core::wire::{
    Fields, Frame,
    body::{HalfInfo, HalfList, HalfState, ProducerGroup},
    header::{HalfHeader, ListHalvesHeader, Resolution, ResumeCheckHeader},
    request,
};

use super::{
    admin::{Admin, Server, parsed, succeeded},
    output::{Format, Table},
};

/// Half messages in one answer of a broker.
const PAGE: u32 = 500;

#[derive(Debug, Subcommand)]
pub enum Txn {
    /// Undecided transactions, oldest first.
    List(List),
    /// Producer groups with undecided transactions, and whether anybody of them
    /// is there to be asked.
    Groups(Groups),
    /// One half message, whatever became of it.
    Show(Show),
    /// Make a half message visible.
    Commit(Half),
    /// Drop a half message.
    Rollback(Half),
    /// Check a half message again, from the first check on.
    Resume(Half),
}

#[derive(Debug, Args)]
pub struct List {
    /// Only those of this producer group.
    #[arg(short, long)]
    group: Option<String>,
    /// Only those that were checked too often and wait for you.
    #[arg(long)]
    parked: bool,
    /// At most so many of each broker.
    #[arg(long, default_value_t = 100)]
    limit: u32,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Args)]
pub struct Groups {
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Args)]
pub struct Show {
    /// Offset message id, as `list` shows it.
    message_id: String,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    server: Server,
}

#[derive(Debug, Args)]
pub struct Half {
    /// Offset message id, as `list` shows it.
    message_id: String,
    #[command(flatten)]
    server: Server,
}

impl Txn {
    pub async fn run(self) -> io::Result<()> {
        match self {
            Txn::List(list) => list.run().await,
            Txn::Groups(groups) => groups.run().await,
            Txn::Show(show) => show.run().await,
            Txn::Commit(half) => half.settle(Resolution::Commit, "committed").await,
            Txn::Rollback(half) => half.settle(Resolution::Rollback, "rolled back").await,
            Txn::Resume(half) => half.resume().await,
        }
    }
}

impl List {
    async fn run(self) -> io::Result<()> {
        let mut admin = Admin::connect(&self.server).await?;
        let mut table = Table::new(&[
            "message_id",
            "broker",
            "group",
            "producers",
            "topic",
            "queue",
            "state",
            "checks",
            "next_check_ms",
            "stored_at",
            "size",
        ]);
        for (broker, addr) in admin.brokers().await? {
            let mut connections = BTreeMap::new();
            for page in self.pages(&mut admin, addr).await? {
                let groups = page.groups.into_iter();
                connections.extend(groups.map(|group| (group.group, group.connections)));
                for half in page.halves {
                    let producers = connections.get(&half.producer_group).copied();
                    table.row(row(&half, &broker, producers));
                }
            }
        }
        table.print(self.output);
        Ok(())
    }

    async fn pages(&self, admin: &mut Admin, addr: SocketAddr) -> io::Result<Vec<HalfList>> {
        let (mut pages, mut after, mut left) = (Vec::new(), None, self.limit);
        while left > 0 {
            let header = ListHalvesHeader {
                producer_group: self.group.as_deref(),
                parked: Some(self.parked),
                after,
                limit: left.min(PAGE),
            };
            let answer = ask(admin, addr, request::LIST_HALVES, header.fields()).await?;
            let page = parsed(HalfList::parse(&answer.body))?;
            left = left.saturating_sub(page.halves.len() as u32);
            after = page.next.and_then(|next| i64::try_from(next).ok());
            pages.push(page);
            if after.is_none() {
                break;
            }
        }
        Ok(pages)
    }
}

fn row(half: &HalfInfo, broker: &str, producers: Option<u32>) -> [Value; 11] {
    [
        half.message_id.as_str().into(),
        broker.into(),
        half.producer_group.as_str().into(),
        producers.into(),
        half.topic.as_str().into(),
        half.queue.into(),
        state(half.state).into(),
        half.checks.into(),
        half.next_check_in.into(),
        half.stored_at.into(),
        half.size.into(),
    ]
}

fn state(state: HalfState) -> &'static str {
    match state {
        HalfState::Open => "open",
        HalfState::Parked => "parked",
        HalfState::Committed => "committed",
        HalfState::RolledBack => "rolled-back",
    }
}

impl Groups {
    async fn run(self) -> io::Result<()> {
        let mut admin = Admin::connect(&self.server).await?;
        let mut table =
            Table::new(&["group", "broker", "open", "parked", "producers", "unreachable"]);
        for (broker, addr) in admin.brokers().await? {
            let header =
                ListHalvesHeader { producer_group: None, parked: None, after: None, limit: 1 };
            let answer = ask(&mut admin, addr, request::LIST_HALVES, header.fields()).await?;
            for group in parsed(HalfList::parse(&answer.body))?.groups {
                let ProducerGroup { group, open, parked, connections, unreachable } = group;
                table.row([
                    group.into(),
                    broker.as_str().into(),
                    open.into(),
                    parked.into(),
                    connections.into(),
                    unreachable.into(),
                ]);
            }
        }
        table.print(self.output);
        Ok(())
    }
}

impl Show {
    async fn run(self) -> io::Result<()> {
        let mut admin = Admin::connect(&self.server).await?;
        let header = HalfHeader { message_id: &self.message_id, resolution: None };
        let addr = address(&self.message_id)?;
        let answer = ask(&mut admin, addr, request::SHOW_HALF, header.fields()).await?;
        let half = parsed(HalfInfo::parse(&answer.body))?;
        let mut table = Table::new(&["field", "value"]);
        let rows: [(&str, Value); 11] = [
            ("message_id", half.message_id.into()),
            ("state", state(half.state).into()),
            ("group", half.producer_group.into()),
            ("topic", half.topic.into()),
            ("queue", half.queue.into()),
            ("unique_key", half.unique_key.into()),
            ("number", half.number.into()),
            ("checks", half.checks.into()),
            ("next_check_ms", half.next_check_in.into()),
            ("stored_at", half.stored_at.into()),
            ("size", half.size.into()),
        ];
        for (field, value) in rows {
            table.row([field.into(), value]);
        }
        for (key, value) in half.properties {
            table.row([format!("property {key}").into(), value.into()]);
        }
        table.print(self.output);
        Ok(())
    }
}

impl Half {
    async fn settle(self, resolution: Resolution, done: &str) -> io::Result<()> {
        let header = HalfHeader { message_id: &self.message_id, resolution: Some(resolution) };
        self.tell(request::SETTLE_HALF, header.fields(), done).await
    }

    async fn resume(self) -> io::Result<()> {
        let header = ResumeCheckHeader { topic: None, message_id: &self.message_id };
        self.tell(request::RESUME_CHECK_HALF_MESSAGE, header.fields(), "resumed").await
    }

    async fn tell(&self, code: i32, fields: Fields, done: &str) -> io::Result<()> {
        let mut admin = Admin::connect(&self.server).await?;
        ask(&mut admin, address(&self.message_id)?, code, fields).await?;
        println!("{} is {done}", self.message_id);
        Ok(())
    }
}

async fn ask(admin: &mut Admin, addr: SocketAddr, code: i32, fields: Fields) -> io::Result<Frame> {
    succeeded(admin.ask(addr, code, fields).await?)
}

/// The broker that an offset message id comes from.
fn address(message_id: &str) -> io::Result<SocketAddr> {
    let unusable = || io::Error::other(format!("{message_id} is not an offset message id"));
    let hex = |from: usize, to: usize| {
        let digits = message_id.get(from..to).ok_or_else(unusable)?;
        u128::from_str_radix(digits, 16).map_err(|_| unusable())
    };
    let (ip, port): (IpAddr, u128) = match message_id.len() {
        32 => (Ipv4Addr::from(hex(0, 8)? as u32).into(), hex(8, 16)?),
        56 => (Ipv6Addr::from(hex(0, 32)?).into(), hex(32, 40)?),
        _ => return Err(unusable()),
    };
    Ok(SocketAddr::new(ip, u16::try_from(port).map_err(|_| unusable())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_says_which_broker_to_ask() {
        let addr = address("0A00000100002A9F0000000000000FE8").unwrap();
        assert_eq!(addr, "10.0.0.1:10911".parse().unwrap());
        for wrong in ["", "0A000001", "0A00000100012A9F0000000000000FE8", &"é".repeat(16)] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
