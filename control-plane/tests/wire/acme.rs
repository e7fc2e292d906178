//! The gateway's certificate from a real ACME authority.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use lab::services::Pebble;
use reqwest::{Certificate, Client};
use runtime::tls::Authority;
use runtime::tls::acme::Acme;

use crate::plane::Plane;

const DOMAIN: &str = "call.example.test";
const HOUR: Duration = Duration::from_hours(1);
/// The authority is asked at the start, and answers within a second or two.
const ISSUED_WITHIN: Duration = Duration::from_secs(30);

/// A port for the gateway, where the authority will look.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("bound").port()
}

/// A client that resolves the domain to the gateway and trusts this certificate alone.
fn client(root: Certificate, gateway: SocketAddr) -> Client {
    let builder = Client::builder().tls_certs_only([root]).no_proxy();
    builder.resolve(DOMAIN, gateway).build().expect("a client")
}

/// The certificate that the authority signs with.
async fn root(pebble: &Pebble, ca_pem: &str) -> Certificate {
    let ca = Certificate::from_pem(ca_pem.as_bytes()).expect("PEM");
    let client = Client::builder().tls_certs_only([ca]).no_proxy().build();
    let answer = client.expect("a client").get(pebble.root()).send().await;
    let pem = answer.expect("answers").bytes().await.expect("a body");
    Certificate::from_pem(&pem).expect("PEM")
}

fn counted(plane: &Plane, result: &str) -> f64 {
    let families = plane.registry.gather();
    let of = |family: &&prometheus::proto::MetricFamily| family.name() == "antipode_tls_acme_total";
    let series = families.iter().find(of).map(|family| family.get_metric());
    let mut with_result = series.into_iter().flatten().filter(|metric| {
        let mut labels = metric.get_label().iter();
        labels.any(|label| label.value() == result)
    });
    with_result
        .next()
        .map_or(0.0, |metric| metric.get_counter().get_value())
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, |entries| entries.count())
}

#[tokio::test]
async fn a_certificate_is_proven_kept_and_used_again() {
    runtime::tls::install_provider();
    let authority = Authority::generate("test", HOUR).expect("generates");
    let own = authority
        .issue_server(&["localhost".to_owned()], HOUR)
        .expect("issues");
    let port = free_port();
    let pebble = Pebble::start((&own.cert_pem, &own.key_pem), port).expect("Pebble runs");

    let folder = tempfile::tempdir().expect("temporary folder");
    let (ca, kept) = (folder.path().join("ca.pem"), folder.path().join("acme"));
    std::fs::write(&ca, authority.ca_pem()).expect("writes");
    let acme = Acme {
        domains: vec![DOMAIN.to_owned()],
        email: Some("ops@example.test".to_owned()),
        directory: pebble.directory(),
        directory_ca: Some(ca),
        folder: kept.clone(),
    };
    let gateway = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let plane = Plane::start(|config| {
        config.http = gateway;
        config.acme = Some(acme.clone());
    })
    .await;
    let client = client(root(&pebble, authority.ca_pem()).await, gateway);
    let url = format!("https://{DOMAIN}:{port}/api/v1/rooms");
    let serves = async || {
        client
            .get(&url)
            .send()
            .await
            .is_ok_and(|answer| answer.status() == 200)
    };
    crate::eventually("a certificate", ISSUED_WITHIN, serves).await;
    assert!((counted(&plane, "issued") - 1.0).abs() < f64::EPSILON);
    drop(plane.stop().await);

    // The authority is gone: what is kept has to do.
    drop(pebble);
    assert_eq!(files(&kept), 2, "account and certificate");
    let plane = Plane::start(|config| {
        config.http = gateway;
        config.acme = Some(acme);
    })
    .await;
    crate::eventually("the kept certificate", ISSUED_WITHIN, serves).await;
    assert!(counted(&plane, "issued").abs() < f64::EPSILON);
}
