//! `stormglass group members`.

use std::io;

use clap::Args;

use super::{
    admin::{Admin, Server},
    output::{Format, Table},
};

#[derive(Debug, Args)]
pub struct Members {
    group: String,
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    server: Server,
}

impl Members {
    pub async fn run(self) -> io::Result<()> {
        let mut admin = Admin::connect(&self.server).await?;
        let columns = &["broker", "client", "address", "language", "disagrees"];
        let mut table = Table::new(columns);
        for (broker, addr) in admin.brokers().await? {
            let Some(group) = admin.connections(addr, &self.group).await? else { continue };
            for member in group.members {
                let about = group.disagreements.iter().filter(|d| d.client_id == member.client_id);
                let wants = about.map(|d| {
                    let wants = d.expression.as_deref().unwrap_or("nothing");
                    format!("{}: {wants}, not {}", d.topic, d.newest)
                });
                table.row([
                    broker.clone().into(),
                    member.client_id.clone().into(),
                    member.client_addr.into(),
                    member.language.into(),
                    wants.collect::<Vec<_>>().join("; ").into(),
                ]);
            }
        }
        if table.is_empty() {
            return Err(io::Error::other(format!("no member of {} is connected", self.group)));
        }
        table.print(self.output);
        Ok(())
    }
}
