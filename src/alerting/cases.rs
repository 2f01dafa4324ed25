//! Several peers in one deterministic world: their clocks, disks, links and one receiver that counts.

mod bodies;
mod pages;
mod world;

use std::time::Duration;

use world::{Receiver, World};

const CONFIG: &str = "
route:
  receiver: hook
  group_by: [alertname]
  group_wait: 2s
  group_interval: 10s
  repeat_interval: 4h
receivers:
- name: hook
  webhook_configs: [{url: 'http://hook/'}]
";

fn world(peers: usize, seed: u64) -> World {
    let mut world = World::new(peers, CONFIG, seed);
    // Long enough for an electorate of all to form.
    world.run_for(Duration::from_secs(20));
    world
}

#[test]
fn a_lone_peer_tells_within_two_seconds_of_its_wait() {
    let mut world = World::new(1, CONFIG, 1);
    world.post(0, &[("alertname", "a")], true);
    world.run_for(Duration::from_secs(3));
    assert_eq!(world.told(), ["firing a"]);
    world.post(0, &[("alertname", "a")], false);
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.told(), ["firing a", "resolved a"]);
    assert!(world.posts_acknowledged() == 2);
}

#[test]
fn all_peers_become_electors() {
    for peers in [2, 3, 5] {
        let world = world(peers, 7);
        assert_eq!(world.electors(), peers, "{peers} peers");
    }
}

#[test]
fn five_thousand_groups_are_told_once_each() {
    let mut world = world(3, 2);
    for at in 0..5000 {
        world.post(at % 3, &[("alertname", &format!("a{at}"))], true);
    }
    world.run_for(Duration::from_secs(30));
    let told = world.told();
    assert_eq!(told.len(), 5000);
    let distinct: std::collections::BTreeSet<_> = told.into_iter().collect();
    assert_eq!(distinct.len(), 5000);
}

#[test]
fn an_alert_outlives_the_peer_that_took_it() {
    for seed in 0..8 {
        let mut world = world(3, seed);
        world.post(0, &[("alertname", "a")], true);
        world.run_for(Duration::from_millis(500));
        assert_eq!(world.posts_acknowledged(), 1);
        world.kill(0);
        world.run_for(Duration::from_secs(15));
        assert_eq!(world.told(), ["firing a"], "seed {seed}");
    }
}

#[test]
fn the_sender_dies_before_sending_and_another_sends_once() {
    for seed in 0..12 {
        let mut world = world(3, seed);
        world.post(0, &[("alertname", "a")], true);
        let sender = world.run_until_attempt(Duration::from_secs(10)).expect("somebody tries to send");
        world.kill_before_sending(sender);
        world.run_for(Duration::from_secs(20));
        assert_eq!(world.told(), ["firing a"], "seed {seed}");
    }
}

#[test]
fn what_is_told_again_because_its_sender_died_bears_the_same_name() {
    for seed in 0..12 {
        // Several instants pass before anybody else may send.
        let mut world = World::new(3, &CONFIG.replace("group_interval: 10s", "group_interval: 1s"), seed);
        world.run_for(Duration::from_secs(20));
        world.receiver = Receiver::Slow(Duration::from_secs(5));
        world.post(0, &[("alertname", "a")], true);
        let sender = world.run_until_told(Duration::from_secs(10)).expect("somebody tells");
        world.kill(sender);
        world.run_for(Duration::from_secs(40));
        let names: Vec<&str> = world.telling.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.len(), 2, "seed {seed}");
        assert_eq!(names[0], names[1], "seed {seed}");
    }
}

#[test]
fn with_two_peers_the_survivor_sends_after_the_hold() {
    for seed in 0..8 {
        let mut world = world(2, seed);
        world.post(0, &[("alertname", "a")], true);
        world.run_for(Duration::from_millis(300));
        world.kill(0);
        world.run_for(Duration::from_secs(18));
        assert_eq!(world.told(), ["firing a"], "seed {seed}");
    }
}

#[test]
fn all_crash_and_nothing_is_told_again_but_the_end_is() {
    for seed in 0..8 {
        let mut world = world(3, seed);
        world.post(1, &[("alertname", "a")], true);
        world.run_for(Duration::from_secs(8));
        assert_eq!(world.told(), ["firing a"]);
        for peer in 0..3 {
            world.kill(peer);
        }
        world.run_for(Duration::from_secs(5));
        for peer in 0..3 {
            world.start(peer);
        }
        world.run_for(Duration::from_secs(40));
        assert_eq!(world.told(), ["firing a"], "seed {seed}");
        world.post(2, &[("alertname", "a")], false);
        world.run_for(Duration::from_secs(30));
        assert_eq!(world.told(), ["firing a", "resolved a"], "seed {seed}");
    }
}

#[test]
fn a_pause_over_the_flush_pages_nobody_twice() {
    for seed in 0..12 {
        for paused in 0..3 {
            let mut world = world(3, seed);
            world.post(0, &[("alertname", "a")], true);
            world.run_for(Duration::from_millis(1500));
            world.pause(paused, Duration::from_secs(31));
            world.run_for(Duration::from_secs(60));
            assert_eq!(world.told(), ["firing a"], "seed {seed}, peer {paused}");
        }
    }
}

#[test]
fn what_was_posted_to_a_peer_that_stood_still_does_not_begin_anew() {
    let mut world = world(3, 8);
    world.post(0, &[("alertname", "a")], true);
    world.run_for(Duration::from_secs(5));
    assert_eq!(world.told(), ["firing a"]);
    world.pause(0, Duration::from_secs(25));
    world.run_for(Duration::from_secs(1));
    world.post_to_standing_still(0, &[("alertname", "a")]);
    world.run_for(Duration::from_secs(4));
    world.post(1, &[("alertname", "a")], false);
    world.run_for(Duration::from_secs(60));
    assert_eq!(world.told(), ["firing a", "resolved a"]);
    // What begins after that is new.
    world.post(0, &[("alertname", "a")], true);
    world.run_for(Duration::from_secs(20));
    assert_eq!(world.told(), ["firing a", "resolved a", "firing a"]);
}

#[test]
fn while_all_stand_still_no_alert_runs_out() {
    for peers in [1, 3] {
        let mut world = world(peers, 9);
        let valid = Duration::from_secs(15);
        world.post_valid_for(0, &[("alertname", "a")], valid);
        world.run_for(Duration::from_secs(5));
        for peer in 0..peers {
            world.pause(peer, Duration::from_secs(30));
        }
        world.run_for(Duration::from_secs(45));
        assert_eq!(world.told(), ["firing a"], "{peers} peers: its source has had no chance to post it again");
        // Had it one and used it, it runs; had it and did not, it is over.
        world.post_valid_for(0, &[("alertname", "a")], Duration::from_secs(400));
        world.run_for(Duration::from_secs(350));
        assert_eq!(world.told(), ["firing a"], "{peers} peers");
        world.run_for(Duration::from_secs(100));
        assert_eq!(world.told(), ["firing a", "resolved a"], "{peers} peers");
    }
}

#[test]
fn a_cut_of_six_seconds_over_the_flush_pages_nobody_twice() {
    for seed in 0..12 {
        for alone in 0..3 {
            let mut world = world(3, seed);
            world.post(0, &[("alertname", "a")], true);
            world.run_for(Duration::from_millis(1500));
            world.cut(alone);
            world.run_for(Duration::from_secs(6));
            world.heal();
            world.run_for(Duration::from_secs(40));
            assert_eq!(world.told(), ["firing a"], "seed {seed}, peer {alone}");
        }
    }
}

#[test]
fn a_slow_or_failing_receiver_is_told_once() {
    for receiver in [Receiver::Slow(Duration::from_secs(20)), Receiver::FailsUntil(Duration::from_secs(50))] {
        for seed in 0..6 {
            let mut world = world(3, seed);
            world.receiver = receiver;
            world.post(0, &[("alertname", "a")], true);
            world.run_for(Duration::from_secs(150));
            assert_eq!(world.told(), ["firing a"], "seed {seed} {receiver:?}");
        }
    }
}

/// A peer that is alone sends to a slow receiver while others join: who accepted its intent is soon no majority any more.
#[test]
fn an_electorate_that_grows_while_an_attempt_runs_tells_nobody_twice() {
    for seed in 0..6 {
        for joined_after in (0..2000).step_by(250) {
            let mut world = World::new(3, CONFIG, seed);
            world.kill(1);
            world.kill(2);
            world.run_for(Duration::from_secs(8));
            world.receiver = Receiver::Slow(Duration::from_secs(20));
            world.start(1);
            world.start(2);
            world.run_for(Duration::from_millis(joined_after));
            for name in ["a", "b", "c", "d", "e", "f"] {
                world.post(0, &[("alertname", name)], true);
            }
            world.run_for(Duration::from_secs(60));
            let mut told = world.told();
            told.sort();
            let expected = ["a", "b", "c", "d", "e", "f"].map(|name| format!("firing {name}"));
            assert_eq!(told, expected, "seed {seed}, after {joined_after} ms");
        }
    }
}

/// Three vote, one of them tells a slow receiver, and reaches one of the two others. The electorate grows to five meanwhile:
/// the third and those that join would be a majority of five that knows nothing of the attempt. It grows to four, and to
/// five once the receiver has answered.
#[test]
fn an_electorate_that_grows_by_two_past_an_attempt_tells_nobody_twice() {
    for seed in 0..6 {
        let mut world = World::new(5, CONFIG, seed);
        world.kill(3);
        world.kill(4);
        world.run_for(Duration::from_secs(20));
        assert_eq!(world.electors(), 3, "seed {seed}");
        world.receiver = Receiver::Slow(Duration::from_secs(40));
        world.post(0, &[("alertname", "a")], true);
        let sender = world.run_until_told(Duration::from_secs(10)).expect("somebody tells");
        world.run_for(Duration::from_millis(200));
        for other in [(sender + 1) % 3, 3, 4] {
            world.sever(sender, other);
        }
        world.start(3);
        world.start(4);
        world.run_for(Duration::from_secs(35));
        assert_eq!(world.told(), ["firing a"], "seed {seed}: while it is being told");
        assert_eq!(world.most_electors(), 4, "seed {seed}");
        world.run_for(Duration::from_secs(15));
        assert_eq!(world.most_electors(), 5, "seed {seed}: it went on");
        world.heal();
        world.run_for(Duration::from_secs(30));
        assert_eq!((world.told(), world.electors()), (vec!["firing a".to_owned()], 5), "seed {seed}");
    }
}

#[test]
fn silences_reach_all_and_end_when_told() {
    let mut world = world(3, 3);
    let id = world.silence(1, "alertname", "a", Duration::from_secs(3600));
    world.post(0, &[("alertname", "a")], true);
    world.run_for(Duration::from_secs(15));
    assert_eq!(world.told(), Vec::<String>::new());
    world.expire_silence(2, id);
    world.run_for(Duration::from_secs(15));
    assert_eq!(world.told(), ["firing a"]);
}

/// Both sides of a cut tell of the group. The majority's alert ends before the other side tells of its own, and of the two
/// records that is the later one.
#[test]
fn what_only_the_other_side_of_a_cut_told_is_told_as_ended() {
    let config = CONFIG.replace("group_by: [alertname]", "group_by: [team]").replace("interval: 10s", "interval: 60s");
    for seed in 0..12 {
        let mut world = World::new(3, &config, seed);
        world.run_for(Duration::from_secs(20));
        world.cut(0);
        world.post(1, &[("alertname", "a"), ("team", "t")], true);
        world.post(0, &[("alertname", "b"), ("team", "t")], true);
        world.run_for(Duration::from_secs(6));
        assert_eq!(world.told(), ["firing a"], "seed {seed}");
        world.post(1, &[("alertname", "a"), ("team", "t")], false);
        world.run_for(Duration::from_secs(20));
        assert_eq!(world.told(), ["firing a", "firing b"], "seed {seed}");
        world.heal();
        world.run_for(Duration::from_secs(80));
        let mut told = world.told().split_off(2);
        told.sort();
        assert_eq!(told, ["firing b", "resolved a"], "seed {seed}");
    }
}

/// Crashes, pauses, cuts and lost messages at random; then all heals. Each alert is told at least once, and twice only
/// where an attempt was cut off between the receiver's answer and the record of it.
#[test]
fn under_random_faults_everything_is_told_and_next_to_nothing_twice() {
    for seed in 0..60 {
        let mut world = world(3 + (seed as usize % 2) * 2, seed);
        let alerts = 6;
        for at in 0..alerts {
            world.post(at % 3, &[("alertname", &format!("a{at}"))], true);
            world.random_fault();
            world.run_for(Duration::from_millis(700));
        }
        world.run_for(Duration::from_secs(10));
        world.heal_all();
        world.run_for(Duration::from_secs(90));
        for at in 0..alerts {
            let name = format!("a{at}");
            let told = world.told().iter().filter(|line| **line == format!("firing {name}")).count();
            let posted = world.was_acknowledged(&name);
            assert!(told >= usize::from(posted), "seed {seed}: {name} was never told");
            assert!(told <= 1 + world.cut_off(&name), "seed {seed}: {name} was told {told} times");
        }
    }
}
