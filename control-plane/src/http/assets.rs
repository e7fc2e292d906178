//! The embedded web application: its files, and its start page for every path that is a place within it.

use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{Html, IntoResponse, Response};
use rust_embed::{EmbeddedFile, RustEmbed};

use super::error::ApiError;

/// What `npm run build` made; empty when the crate was built without it.
#[derive(RustEmbed)]
#[folder = "../web/dist"]
#[allow_missing = true]
struct Application;

const START: &str = "index.html";

/// Shown instead of an application that was not built.
const NOT_BUILT: &str = "<!doctype html><html lang=en><meta charset=utf-8>\
    <meta name=viewport content='width=device-width'><title>Antipode</title>\
    <style>body{font:16px/1.5 system-ui;max-width:40rem;margin:4rem auto;padding:0 1rem}\
    code{background:#8883;padding:.1em .3em;border-radius:.2em}</style>\
    <h1>Antipode is running</h1>\
    <p>This binary was built without the web application. To get it, build it and then the binary again:</p>\
    <pre><code>cd web &amp;&amp; npm install &amp;&amp; npm run build\ncargo build --release</code></pre>\
    <p>Apps with a LiveKit SDK can join all the same: tokens come from <code>/api/token</code>.</p></html>";

pub(super) async fn serve(uri: Uri, headers: HeaderMap) -> Response {
    let path = uri.path().trim_start_matches('/');
    if let Some(file) = Application::get(path) {
        return respond(path, &file, &headers);
    }
    // A path with a file's ending is a file that is not there; any other is a place within the application.
    let is_file = path
        .rsplit('/')
        .next()
        .is_some_and(|name| name.contains('.'));
    if is_file && path != START {
        return ApiError::not_found(format!("no file {path:?}")).into_response();
    }
    match Application::get(START) {
        Some(file) => respond(START, &file, &headers),
        None => Html(NOT_BUILT).into_response(),
    }
}

fn respond(path: &str, file: &EmbeddedFile, headers: &HeaderMap) -> Response {
    let hash = file.metadata.sha256_hash();
    let tag: String = hash
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let tag = format!("\"{tag}\"");
    // Files below assets/ carry a hash of their content in their name.
    let keep = if path.starts_with("assets/") {
        "public, max-age=31536000, immutable"
    } else {
        "no-cache"
    };
    let known = headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let cached = [
        (header::ETAG, tag),
        (header::CACHE_CONTROL, keep.to_owned()),
    ];
    if known {
        return (StatusCode::NOT_MODIFIED, cached).into_response();
    }
    let kind = [(header::CONTENT_TYPE, media_type(path))];
    (cached, kind, file.data.clone().into_owned()).into_response()
}

/// Media type by a file's ending (IANA's names).
fn media_type(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "wasm" => "application/wasm",
        "mp3" => "audio/mpeg",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}
