//! A replica set for real: three brokers as processes, whose leader is killed,
//! stopped in its tracks and cut off while the testbed's clients go on, judged
//! by the testbed's oracles.

use stormglass_reports::failure::failure_text;
use stormglass_sim::{
    record::record,
    run::{Options, World, run},
};

const STORM: &str = "
    name = 'leaders-come-and-go'
    seeds = [1]
    run_for = '20s'
    settle = '60s'

    [cluster]
    brokers = 3
    replicas = 3
    topics = [{ name = 'orders', queues = 4 }]

    [[workload]]
    kind = 'produce'
    topic = 'orders'
    members = 2
    rate = 50.0
    keys = 8

    [[workload]]
    kind = 'consume'
    group = 'billing'
    topics = ['orders']
    members = 2
    from = 'first'

    [[fault]]
    kind = 'kill'
    at = '3s'
    node = 'leader'
    restart_after = '2s'

    [[fault]]
    kind = 'pause'
    at = '9s'
    node = 'leader'
    for = '3s'

    [[fault]]
    kind = 'partition'
    at = '15s'
    a = 'leader'
    b = 'followers'
    for = '3s'

    [expect]
    at_least = { kill = 1, pause = 1, partition = 1, send-ok = 1, ack = 1 }
    may_lose = 'nothing'
";

#[test]
fn a_replica_set_of_processes_keeps_its_promises() {
    let scenario = stormglass_scenarios::parse("real_world.rs", STORM).unwrap();
    let run = run(&scenario, 1, World::Real, &Options::default());
    assert!(run.passed(), "{}", failure_text(&record(&scenario, &run)));
}
