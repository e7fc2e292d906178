//! Opens the stores that the configuration names.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::memory::Memory;
use super::redis::{self, Redis};
use super::sealed::{Sealer, read_or_create};
use super::sql::{Sql, create_folder};
use super::{Durable, Ephemeral, Error};
use crate::config::{Config, Database};
use crate::metrics::Metrics;

/// Opens the durable store. A SQLite file without a master key gets one beside it.
///
/// # Errors
/// When the database does not open or its schema cannot be brought up to date, or there is no good master key.
pub async fn durable(config: &Config) -> Result<Arc<dyn Durable>, Error> {
    let database = config.database();
    let master = if let Some(key) = &config.master_key {
        key.clone()
    } else {
        create_folder(&config.data_dir)?;
        read_or_create(&config.data_dir.join("master.key"))?
    };
    let sealer = Sealer::new(&master)?;
    Ok(match database {
        Database::Postgres(url) => Arc::new(Sql::postgres(&url, sealer).await?),
        Database::Sqlite(file) => Arc::new(Sql::sqlite(&file, sealer).await?),
        Database::Unknown => {
            let named = "a database of the kind that database_url names".to_owned();
            return Err(Error::Missing(named));
        }
    })
}

/// Opens the ephemeral store. Its tasks end at `shutdown`. Redis need not be there yet.
///
/// # Errors
/// When the URL of Redis is malformed.
pub async fn ephemeral(
    config: &Config,
    metrics: &Metrics,
    shutdown: &CancellationToken,
) -> Result<Arc<dyn Ephemeral>, Error> {
    let Some(url) = &config.redis_url else {
        return Ok(Arc::new(Memory::new(config.node_id.as_str())));
    };
    let options = redis::Options {
        url: url.clone(),
        mesh: config.mesh.clone(),
        replica: config.node_id.clone(),
    };
    let redis = Redis::open(&options, metrics.clone(), shutdown.clone()).await?;
    Ok(Arc::new(redis))
}
