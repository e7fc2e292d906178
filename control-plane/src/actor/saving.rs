//! What the core decides is saved before it is told.

use std::sync::Arc;

use super::{Actor, Command, LOOK, SAVE_TIMEOUT};
use crate::store::Fenced;

impl Actor {
    /// Saves what waits: all rooms and nodes, since their plans are sent then, part by part, and a part of the history. The rooms that
    /// another replica planned meanwhile, or `None` when not all was saved.
    pub(super) async fn save(&mut self) -> Option<Vec<Fenced>> {
        let mut fenced = self.save_part().await?;
        while self.unsaved.has_state() {
            fenced.extend(self.save_part().await?);
        }
        Some(fenced)
    }

    async fn save_part(&mut self) -> Option<Vec<Fenced>> {
        let changes = self.unsaved.changes();
        let saving = tokio::time::timeout(SAVE_TIMEOUT, self.stores.durable.save(&changes));
        let error = match saving.await {
            Ok(Ok(fenced)) => {
                self.metrics.stores.saves.with_label_values(&["ok"]).inc();
                let count = u64::try_from(fenced.len()).unwrap_or(u64::MAX);
                self.metrics.stores.fenced.inc_by(count);
                self.unsaved.saved();
                self.unsaved.drop_events(&fenced);
                return Some(fenced);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer".to_owned(),
        };
        self.metrics
            .stores
            .saves
            .with_label_values(&["failed"])
            .inc();
        self.drop_excess();
        tracing::warn!(
            error,
            changes = changes.len(),
            "changes could not be saved; plans are held back"
        );
        self.look_for_store();
        None
    }

    /// Bounds what waits for the store.
    pub(super) fn drop_excess(&mut self) {
        let lost = self.unsaved.bound();
        if lost > 0 {
            let count = u64::try_from(lost).unwrap_or(u64::MAX);
            let counter = self.metrics.stores.saves.with_label_values(&["lost"]);
            counter.inc_by(count);
            tracing::warn!(lost, "history dropped: the store is away for too long");
        }
    }

    /// Saves nothing until the store answers again: nobody is to wait for it in vain.
    fn look_for_store(&mut self) {
        self.away = true;
        let (durable, commands) = (Arc::clone(&self.stores.durable), self.commands.clone());
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let ping = tokio::time::timeout(SAVE_TIMEOUT, durable.ping()).await;
                let answers = matches!(ping, Ok(Ok(())));
                match commands.upgrade() {
                    Some(commands) if answers => {
                        // Its queue is closed when the task has ended.
                        commands.send(Command::StoreBack).await.ok();
                        return;
                    }
                    Some(_) => {}
                    None => return,
                }
            }
        });
    }
}
