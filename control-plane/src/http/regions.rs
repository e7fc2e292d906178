//! The regions that are served, in the shape of LiveKit's `RegionSettings`.

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::Gateway;
use super::error::ApiError;
use crate::placement;

#[derive(Debug, Serialize)]
pub(super) struct RegionSettings {
    regions: Vec<RegionInfo>,
}

/// One region. 64-bit numbers are texts in protobuf's JSON.
#[derive(Debug, Serialize)]
struct RegionInfo {
    region: String,
    url: String,
    /// Metres from the control plane's region; 0 when that is not in the catalogue.
    distance: String,
}

/// Every served region with its least loaded edge, nearest first.
pub(super) async fn list(State(gateway): State<Gateway>) -> Result<Json<RegionSettings>, ApiError> {
    let edges = placement::ready_edges(&gateway.ephemeral.nodes().await?);
    let here = geo::region(&gateway.region);
    let distance_m = |region: &str| {
        let (from, to) = (here?, geo::region(region)?);
        Some(from.distance_m(to).round())
    };
    let mut regions: Vec<_> = placement::served(&edges)
        .into_iter()
        .filter_map(|region| placement::least_loaded(&edges, Some(region)))
        .map(|edge| (distance_m(&edge.region).unwrap_or(0.0), edge))
        .collect();
    regions.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let regions = regions.into_iter().map(|(metres, edge)| RegionInfo {
        region: edge.region.clone(),
        url: edge.url.clone(),
        distance: format!("{metres:.0}"),
    });
    Ok(Json(RegionSettings {
        regions: regions.collect(),
    }))
}
