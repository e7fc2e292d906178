//! The core under random inputs.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Connect(usize, u64),
    Disconnect(usize),
    Assign(usize, usize),
    Close(usize, usize),
    Report(usize, usize, u64),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let (node, room) = (0..5_usize, 0..3_usize);
    prop_oneof![
        (node.clone(), 0..3_u64).prop_map(|(n, i)| Step::Connect(n, i)),
        node.clone().prop_map(Step::Disconnect),
        (node.clone(), room.clone()).prop_map(|(n, r)| Step::Assign(n, r)),
        (node.clone(), room.clone()).prop_map(|(n, r)| Step::Close(n, r)),
        (node, room, 0..50_u64).prop_map(|(n, r, e)| Step::Report(n, r, e)),
        (0..30_000_u64).prop_map(Step::Pass),
    ]
}

const NODES: [&str; 5] = ["edge-fra", "edge-syd", "edge-iad", "relay-sin", "relay-dub"];

fn run(steps: &[Step]) -> Vec<(SessionId, Vec<Down>)> {
    let mut mesh = Mesh::new(RoomPolicy::Via("sin".to_owned()));
    let mut sessions = [SessionId(0); 5];
    for step in steps {
        match *step {
            Step::Connect(n, incarnation) => sessions[n] = mesh.connect(NODES[n], incarnation),
            Step::Disconnect(n) => mesh.input(Input::Disconnected {
                session: sessions[n],
            }),
            Step::Assign(n, room) => drop(mesh.assign(NODES[n], &format!("room-{room}"))),
            Step::Close(n, room) => {
                let closed = RoomClosed {
                    room: format!("room-{room}"),
                    ..RoomClosed::default()
                };
                mesh.message(sessions[n], Up::RoomClosed(closed));
            }
            Step::Report(n, room, epoch) => {
                mesh.report(sessions[n], &format!("room-{room}"), epoch);
            }
            Step::Pass(ms) => mesh.pass(Duration::from_millis(ms)),
        }
    }
    mesh.heard.into_iter().collect()
}

proptest! {
    #[test]
    fn epochs_never_fall_and_the_same_inputs_say_the_same(
        steps in proptest::collection::vec(step(), 0..80)
    ) {
        let heard = run(&steps);
        for (_, messages) in &heard {
            let mut epochs = BTreeMap::<&str, (u64, &RoomPlan)>::new();
            for message in messages {
                let Down::Plan(plan) = message else { continue };
                if let Some((epoch, before)) = epochs.get(plan.room.as_str()) {
                    prop_assert!(*epoch < plan.epoch || *before == plan);
                }
                epochs.insert(&plan.room, (plan.epoch, plan));
            }
        }
        prop_assert_eq!(heard, run(&steps));
    }
}
