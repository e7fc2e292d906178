//! Replicas are found by DNS.

use std::time::Duration;

use runtime::discovery::srv::{Name, follow};
use tokio_util::sync::CancellationToken;

use crate::replica::{Replica, Stores, eventually, outside};

#[test]
fn replicas_are_found_by_name_and_stay_known_without_consul() {
    let mut stores = Stores::start();
    outside(async {
        let start = |id| tokio::task::block_in_place(|| Replica::start(&stores, id, None));
        let (a, b) = (start("control-a"), start("control-b"));
        let name = Name {
            name: "antipode-control.service.consul".to_owned(),
            server: Some(([127, 0, 0, 1], stores.consul.dns()).into()),
        };
        let found = follow(&name, CancellationToken::new()).expect("a name server");
        eventually("both are found", async || found.borrow().len() == 2).await;
        for replica in [&a, &b] {
            let at = replica.plane.grpc.trim_start_matches("http://").to_owned();
            assert!(
                found
                    .borrow()
                    .iter()
                    .any(|address| address.to_string() == at)
            );
        }
        let began = std::time::Instant::now();
        b.kill();
        eventually("the dead one is named no more", async || {
            found.borrow().len() == 1
        })
        .await;
        println!("named no more after {:?}", began.elapsed());
        stores.consul.kill();
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(found.borrow().len(), 1);
        drop(a);
    });
}
