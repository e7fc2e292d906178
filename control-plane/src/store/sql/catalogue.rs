//! Nodes, room configurations, prices and history in the database.

use futures_util::future::BoxFuture;
use proto::control::Hello;
use proto::{Identity, NodeId, RoomId, RoomSid};
use serde_json::json;

use super::Sql;
use super::audit::record;
use super::database::{Row, Run, sql};
use crate::store::Error;
use crate::store::audit::{Act, By};
use crate::store::catalogue::{Catalogue, CatalogueNode, LinkPrice, PastRoom, Session};

pub(super) async fn save_node(run: &mut impl Run, hello: &Hello) -> Result<(), Error> {
    let addresses = serde_json::Value::from(hello.link_addresses.clone()).to_string();
    run.execute(
        sql("INSERT INTO nodes (node_id, incarnation, role, region, version, link_addresses, \
             client_url, admin_url, pid, capacity, gone) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, FALSE) \
             ON CONFLICT (node_id) DO UPDATE SET incarnation = excluded.incarnation, \
             role = excluded.role, region = excluded.region, version = excluded.version, \
             link_addresses = excluded.link_addresses, client_url = excluded.client_url, \
             admin_url = excluded.admin_url, pid = excluded.pid, capacity = excluded.capacity, \
             gone = FALSE")
        .with(hello.node_id.as_str())
        .with(hello.incarnation)
        // Roles are small and not negative.
        .with(u64::try_from(hello.role).unwrap_or_default())
        .with(hello.region.as_str())
        .with(hello.version.as_str())
        .with(addresses)
        .with(hello.client_url.as_str())
        .with(hello.admin_url.as_str())
        .with(hello.pid)
        .with(hello.capacity),
    )
    .await?;
    Ok(())
}

pub(super) async fn forget_node(run: &mut impl Run, node: &NodeId) -> Result<(), Error> {
    run.execute(sql("UPDATE nodes SET gone = TRUE WHERE node_id = $1").with(node.as_str()))
        .await?;
    Ok(())
}

pub(super) async fn living_nodes(run: &mut impl Run) -> Result<Vec<Hello>, Error> {
    let nodes = nodes(run).await?.into_iter();
    Ok(nodes
        .filter(|node| !node.gone)
        .map(|node| node.hello)
        .collect())
}

async fn nodes(run: &mut impl Run) -> Result<Vec<CatalogueNode>, Error> {
    let rows = run
        .all(sql(
            "SELECT node_id, incarnation, role, region, version, link_addresses, client_url, \
             admin_url, pid, capacity, gone FROM nodes ORDER BY node_id",
        ))
        .await?;
    rows.iter().map(node).collect()
}

fn node(row: &Row) -> Result<CatalogueNode, Error> {
    let hello = Hello {
        node_id: row.text("node_id")?,
        incarnation: row.number("incarnation")?,
        role: i32::try_from(row.number("role")?).unwrap_or_default(),
        region: row.text("region")?,
        version: row.text("version")?,
        link_addresses: row.json("nodes", "link_addresses")?,
        client_url: row.text("client_url")?,
        admin_url: row.text("admin_url")?,
        pid: row.number("pid")?,
        capacity: u32::try_from(row.number("capacity")?).unwrap_or_default(),
    };
    Ok(CatalogueNode {
        hello,
        gone: row.flag("gone")?,
    })
}

pub(super) async fn save_session(run: &mut impl Run, session: &Session) -> Result<(), Error> {
    // A report may be repeated; one that comes after the end brings nobody back, but from another edge: it moved.
    run.execute(
        sql("INSERT INTO participant_sessions \
             (participant_sid, room_sid, room, identity, label, node_id, joined_at_ms, left_at_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (participant_sid) \
             DO UPDATE SET node_id = excluded.node_id, label = excluded.label, \
             left_at_ms = CASE WHEN participant_sessions.node_id = excluded.node_id \
             THEN participant_sessions.left_at_ms END")
        .with(session.participant.as_str())
        .with(session.room_sid.as_str())
        .with(session.room.as_str())
        .with(session.identity.as_str())
        .with(session.name.as_str())
        .with(session.node.as_str())
        .with(session.joined_at_ms)
        .with(session.left_at_ms),
    )
    .await?;
    Ok(())
}

pub(super) async fn end_session(
    run: &mut impl Run,
    participant: &str,
    at_ms: u64,
) -> Result<(), Error> {
    run.execute(
        sql("UPDATE participant_sessions SET left_at_ms = $2 \
             WHERE participant_sid = $1 AND left_at_ms IS NULL")
        .with(participant)
        .with(at_ms),
    )
    .await?;
    Ok(())
}

/// A room ended: nobody is in it any more.
pub(super) async fn end_sessions(
    run: &mut impl Run,
    room: &RoomSid,
    at_ms: u64,
) -> Result<(), Error> {
    run.execute(
        sql("UPDATE participant_sessions SET left_at_ms = $2 \
             WHERE room_sid = $1 AND left_at_ms IS NULL")
        .with(room.as_str())
        .with(at_ms),
    )
    .await?;
    Ok(())
}

/// Drops sessions that ended before `before_ms`, and those of rooms that are not on record any more.
pub(super) async fn prune(run: &mut impl Run, before_ms: u64) -> Result<(), Error> {
    run.execute(
        sql(
            "DELETE FROM participant_sessions WHERE left_at_ms < $1 OR (joined_at_ms < $1 \
             AND NOT EXISTS (SELECT 1 FROM rooms \
             WHERE rooms.room_sid = participant_sessions.room_sid))",
        )
        .with(before_ms),
    )
    .await?;
    Ok(())
}

impl Catalogue for Sql {
    fn put_room_config<'a>(
        &'a self,
        project: &'a str,
        room: &'a RoomId,
        config: &'a serde_json::Value,
        at_ms: u64,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let mut connection = self.database.connect().await?;
            let put = sql(
                "INSERT INTO room_configs (project, room, config, updated_at_ms) \
                 VALUES ($1, $2, $3, $4) ON CONFLICT (project, room) DO UPDATE SET \
                 config = excluded.config, updated_at_ms = excluded.updated_at_ms",
            );
            connection
                .execute(
                    put.with(project)
                        .with(room.as_str())
                        .with(config.to_string())
                        .with(at_ms),
                )
                .await?;
            Ok(())
        })
    }

    fn room_config<'a>(
        &'a self,
        project: &'a str,
        room: &'a RoomId,
    ) -> BoxFuture<'a, Result<Option<serde_json::Value>, Error>> {
        Box::pin(async move {
            let mut connection = self.database.connect().await?;
            let row = connection
                .one(
                    sql("SELECT config FROM room_configs WHERE project = $1 AND room = $2")
                        .with(project)
                        .with(room.as_str()),
                )
                .await?;
            row.map(|row| row.json("room_configs", "config"))
                .transpose()
        })
    }

    fn drop_room_config<'a>(
        &'a self,
        project: &'a str,
        room: &'a RoomId,
    ) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async move {
            let mut connection = self.database.connect().await?;
            let dropped = connection
                .execute(
                    sql("DELETE FROM room_configs WHERE project = $1 AND room = $2")
                        .with(project)
                        .with(room.as_str()),
                )
                .await?;
            Ok(dropped > 0)
        })
    }

    fn set_prices<'a>(
        &'a self,
        prices: &'a [LinkPrice],
        by: By<'a>,
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            let mut tx = self.database.begin().await?;
            for price in prices {
                tx.execute(
                    sql("INSERT INTO link_prices \
                         (source, destination, microdollars_per_gb, updated_at_ms) \
                         VALUES ($1, $2, $3, $4) ON CONFLICT (source, destination) DO UPDATE SET \
                         microdollars_per_gb = excluded.microdollars_per_gb, \
                         updated_at_ms = excluded.updated_at_ms")
                    .with(price.source.as_str())
                    .with(price.destination.as_str())
                    .with(price.microdollars_per_gb)
                    .with(by.at_ms),
                )
                .await?;
            }
            let listed = prices
                .iter()
                .map(|price| json!([price.source, price.destination, price.microdollars_per_gb]));
            let act = Act {
                action: "prices.set".to_owned(),
                target: "links".to_owned(),
                detail: json!({"prices": listed.collect::<Vec<_>>()}),
            };
            record(&mut tx, &self.sealer, &act, by).await?;
            tx.commit().await
        })
    }

    fn prices(&self) -> BoxFuture<'_, Result<Vec<LinkPrice>, Error>> {
        Box::pin(async move {
            let mut connection = self.database.connect().await?;
            let rows = connection
                .all(sql(
                    "SELECT source, destination, microdollars_per_gb FROM link_prices \
                     ORDER BY source, destination",
                ))
                .await?;
            rows.iter().map(price).collect()
        })
    }

    fn catalogue_nodes(&self) -> BoxFuture<'_, Result<Vec<CatalogueNode>, Error>> {
        Box::pin(async move { nodes(&mut self.database.connect().await?).await })
    }

    fn past_rooms<'a>(
        &'a self,
        room: &'a RoomId,
        limit: u32,
    ) -> BoxFuture<'a, Result<Vec<PastRoom>, Error>> {
        Box::pin(async move {
            let mut connection = self.database.connect().await?;
            let rows = connection
                .all(
                    sql(
                        "SELECT room, room_sid, epoch, created_at_ms, ended_at_ms FROM rooms \
                         WHERE room = $1 ORDER BY created_at_ms DESC, epoch DESC LIMIT $2",
                    )
                    .with(room.as_str())
                    .with(limit),
                )
                .await?;
            rows.iter().map(past_room).collect()
        })
    }

    fn sessions<'a>(&'a self, room_sid: &'a RoomSid) -> BoxFuture<'a, Result<Vec<Session>, Error>> {
        Box::pin(async move {
            let mut connection = self.database.connect().await?;
            let rows = connection
                .all(
                    sql(
                        "SELECT participant_sid, room_sid, room, identity, label, node_id, \
                         joined_at_ms, left_at_ms FROM participant_sessions WHERE room_sid = $1 \
                         ORDER BY joined_at_ms, participant_sid",
                    )
                    .with(room_sid.as_str()),
                )
                .await?;
            rows.iter().map(session).collect()
        })
    }
}

fn price(row: &Row) -> Result<LinkPrice, Error> {
    Ok(LinkPrice {
        source: row.text("source")?,
        destination: row.text("destination")?,
        microdollars_per_gb: row.number("microdollars_per_gb")?,
    })
}

fn past_room(row: &Row) -> Result<PastRoom, Error> {
    Ok(PastRoom {
        room: RoomId::from(row.text("room")?),
        sid: RoomSid::from(row.text("room_sid")?),
        epoch: row.number("epoch")?,
        created_at_ms: row.number("created_at_ms")?,
        ended_at_ms: row.maybe_number("ended_at_ms")?,
    })
}

fn session(row: &Row) -> Result<Session, Error> {
    Ok(Session {
        participant: row.text("participant_sid")?,
        room_sid: RoomSid::from(row.text("room_sid")?),
        room: RoomId::from(row.text("room")?),
        identity: Identity::from(row.text("identity")?),
        name: row.text("label")?,
        node: NodeId::from(row.text("node_id")?),
        joined_at_ms: row.number("joined_at_ms")?,
        left_at_ms: row.maybe_number("left_at_ms")?,
    })
}
