//! Ranks as threads over real sockets and memory, and as processes where one is killed.

use super::ring::{ConnectError, GroupId, Options, PeerAddress, Ring, connect};
use super::{Collective, Lost, Reason, Solo};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

fn group(generation: u64) -> GroupId {
    GroupId { run: "r-test".into(), generation, secret: 0x5eed }
}

fn quick(shared_memory: bool) -> Options {
    Options { rendezvous: Duration::from_secs(20), shared_memory, ..Options::default() }
}

fn listeners(world: usize) -> (Vec<TcpListener>, Vec<PeerAddress>) {
    (0..world)
        .map(|rank| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            (listener, PeerAddress { worker: format!("w{rank}:1"), address, machine: "m".into() })
        })
        .unzip()
}

/// Runs `work` on every rank of a fresh group, and returns what each made, in rank order.
fn together<T: Send>(world: usize, shared_memory: bool, work: impl Fn(Ring) -> T + Sync) -> Vec<T> {
    let (listeners, peers) = listeners(world);
    std::thread::scope(|scope| {
        let (peers, work) = (&peers, &work);
        let ranks: Vec<_> = listeners
            .iter()
            .enumerate()
            .map(|(me, listener)| {
                scope.spawn(move || {
                    let ring = connect(listener, me, peers, &group(1), &quick(shared_memory)).unwrap();
                    let expected = if shared_memory { "memory" } else { "tcp" };
                    assert!((0..world).filter(|&peer| peer != me).all(|peer| ring.transport(peer) == Some(expected)));
                    work(ring)
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn gradients(rank: usize, length: usize) -> Vec<f32> {
    (0..length).map(|i| ((i * 31 + rank * 17) % 1009) as f32 * 0.37 - 111.0).collect()
}

fn tail(rank: usize) -> Vec<f64> {
    (0..5).map(|i| 0.1 * (rank + 1) as f64 + i as f64).collect()
}

type Bits = (Vec<u32>, Vec<u64>);

fn reduce(ring: &mut Ring, length: usize) -> Bits {
    let (mut gradients, mut tail) = (gradients(ring.rank(), length), tail(ring.rank()));
    ring.all_reduce(&mut gradients, &mut tail).unwrap();
    (gradients.iter().map(|v| v.to_bits()).collect(), tail.iter().map(|v| v.to_bits()).collect())
}

#[test]
fn every_rank_has_the_same_bits_and_the_right_sums_for_every_world_length_and_transport() {
    const LENGTHS: [usize; 5] = [0, 1, 7, 1000, 300_000];
    for world in [1, 2, 3, 4, 5, 8] {
        let mut of_transport = Vec::new();
        for shared_memory in [false, true] {
            let all = together(world, shared_memory, |mut ring| LENGTHS.map(|length| reduce(&mut ring, length)));
            for (case, &length) in LENGTHS.iter().enumerate() {
                let (sums, tails) = &all[0][case];
                assert!(all.iter().all(|rank| rank[case] == all[0][case]), "world {world}, length {length}");
                let mut expected = vec![0.0_f64; length];
                for rank in 0..world {
                    expected.iter_mut().zip(gradients(rank, length)).for_each(|(sum, value)| *sum += f64::from(value));
                }
                assert_eq!(sums.len(), length);
                for (sum, expected) in sums.iter().zip(&expected) {
                    assert!(
                        (f64::from(f32::from_bits(*sum)) - expected).abs() < 2e-3,
                        "world {world}, length {length}"
                    );
                }
                for (i, sum) in tails.iter().enumerate() {
                    let expected: f64 = (0..world).map(|rank| tail(rank)[i]).sum();
                    assert!((f64::from_bits(*sum) - expected).abs() < 1e-12);
                }
            }
            of_transport.push(all);
        }
        assert!(of_transport[0] == of_transport[1], "the transport changed a sum in a world of {world}");
    }
}

#[test]
fn a_run_repeats_to_the_bit() {
    for length in [1000, 300_000] {
        let run = || together(5, true, |mut ring| [reduce(&mut ring, length), reduce(&mut ring, length)]);
        let (first, second) = (run(), run());
        assert!(first == second);
        assert!(first[0][0] == first[0][1]);
    }
}

#[test]
fn a_broadcast_carries_the_roots_bytes_to_everyone() {
    for shared_memory in [false, true] {
        for (root, length) in [(0, 0), (2, 1), (1, 5), (2, 3_000_001)] {
            let text = |rank: usize| (0..length).map(|i| (i * 13 + rank) as u8).collect::<Vec<_>>();
            let all = together(3, shared_memory, |mut ring| {
                let mut bytes = text(ring.rank());
                ring.broadcast(&mut bytes, root).unwrap();
                bytes
            });
            assert!(all.iter().all(|bytes| *bytes == text(root)));
        }
    }
}

#[test]
fn a_gather_returns_everyones_bytes_in_rank_order() {
    for shared_memory in [false, true] {
        for world in [1, 2, 5] {
            let text = |rank: usize| vec![rank as u8 + 1; rank * 100_000];
            let all = together(world, shared_memory, |mut ring| ring.gather(&text(ring.rank())).unwrap());
            assert!(all.iter().all(|heard| *heard == (0..world).map(text).collect::<Vec<_>>()));
        }
    }
}

#[test]
fn operations_of_all_kinds_follow_each_other() {
    for shared_memory in [false, true] {
        together(3, shared_memory, |mut ring| {
            for round in 0..30_usize {
                assert_eq!(reduce(&mut ring, round * 2000).0.len(), round * 2000);
                let mut bytes = vec![ring.rank() as u8; 10 * round];
                ring.broadcast(&mut bytes, round % 3).unwrap();
                assert!(bytes.iter().all(|&byte| byte as usize == round % 3));
                assert_eq!(ring.gather(&[round as u8]).unwrap(), vec![[round as u8]; 3]);
            }
        });
    }
}

#[test]
fn many_more_ranks_than_cores_finish() {
    for shared_memory in [false, true] {
        let sums = together(24, shared_memory, |mut ring| {
            (0..20).map(|i| reduce(&mut ring, 40_000 * (i % 2) + 9)).next_back()
        });
        assert!(sums.iter().all(|rank| rank == &sums[0]));
    }
}

#[test]
fn a_rank_that_has_finished_may_leave_while_others_still_receive() {
    for shared_memory in [false, true] {
        for _ in 0..20 {
            together(3, shared_memory, |mut ring| {
                let rank = ring.rank();
                reduce(&mut ring, 400_000);
                if rank == 1 {
                    return;
                }
                // Rank 1 may be gone by now, and is then named; never is it a loss of what it had finished.
                if let Err(lost) = ring.all_reduce(&mut [0.0; 10], &mut []) {
                    assert_eq!((lost.peer, &lost.reason), (Some(1), &expected(rank, &lost)));
                }
            });
        }
    }

    fn expected(rank: usize, lost: &Lost) -> Reason {
        match &lost.reason {
            Reason::Reported { .. } => Reason::Reported { by: format!("w{0}:1 (rank {0})", 2 - rank) },
            _ => Reason::Left,
        }
    }
}

#[test]
fn an_aborter_releases_a_waiter_at_once_and_the_peers_with_it() {
    for shared_memory in [false, true] {
        for length in [10, 3_000_000] {
            let outcomes = together(3, shared_memory, |mut ring| {
                if ring.rank() == 0 {
                    // The others are in the middle of a sum that lacks this rank.
                    let aborter = ring.aborter();
                    std::thread::spawn(move || aborter.abort()).join().unwrap();
                }
                let lost = ring.all_reduce(&mut vec![1.0; length], &mut []).unwrap_err();
                let begun = Instant::now();
                assert_eq!(ring.broadcast(&mut [0], 0).unwrap_err(), lost);
                assert_eq!(ring.gather(&[]).unwrap_err(), lost);
                assert!(begun.elapsed() < Duration::from_millis(500));
                lost
            });
            assert_eq!(outcomes[0].to_string(), "this rank's collectives ended: aborted");
            for lost in &outcomes[1..] {
                assert_eq!(lost.peer, Some(0), "{lost}");
            }
        }
    }
}

#[test]
fn an_aborter_releases_a_sleeping_waiter() {
    for shared_memory in [false, true] {
        let (send, receive) = mpsc::channel();
        let receive = std::sync::Mutex::new(receive);
        together(2, shared_memory, |mut ring| {
            if ring.rank() == 0 {
                send.send(ring.aborter()).unwrap();
                let begun = Instant::now();
                let lost = ring.all_reduce(&mut [1.0], &mut []).unwrap_err();
                assert_eq!((lost.peer, lost.reason), (None, Reason::Aborted));
                assert!(begun.elapsed() < Duration::from_secs(5));
            } else {
                let aborter = receive.lock().unwrap().recv().unwrap();
                // Longer than anyone spins; whether rank 0 sleeps by then changes nothing that is asserted.
                std::thread::park_timeout(Duration::from_millis(20));
                aborter.abort();
                assert_eq!(ring.gather(&[]).unwrap_err().peer, Some(0));
            }
        });
    }
}

#[test]
fn an_aborter_that_outlives_its_ring_holds_nothing_and_does_nothing() {
    let aborters = together(2, true, |ring| ring.aborter());
    aborters.iter().for_each(|aborter| aborter.abort());
    let mut solo = Solo::default();
    solo.all_reduce(&mut [1.0], &mut [1.0]).unwrap();
    assert_eq!(solo.gather(&[3]).unwrap(), [[3]]);
    solo.aborter().abort();
    assert_eq!(solo.broadcast(&mut [], 0).unwrap_err(), Lost::aborted());
}

#[test]
fn ranks_that_disagree_about_the_operation_are_told_so() {
    let outcomes = together(2, true, |mut ring| match ring.rank() {
        0 => ring.all_reduce(&mut [1.0; 10], &mut [1.0]).unwrap_err(),
        _ => ring.broadcast(&mut [0; 7], 0).unwrap_err(),
    });
    let words: Vec<_> = outcomes.iter().map(Lost::to_string).collect();
    let said = "lost w0:1 (rank 0): it is in operation 1, an all-reduce of 10 gradients and 1 more, \
                this rank in operation 1, a broadcast of 7 bytes from rank 0";
    assert_eq!(words[1], said);
    assert!(words[0].starts_with("lost w1:1 (rank 1): it gave this rank up"), "{}", words[0]);
}

#[test]
fn a_stale_generation_is_refused_by_name_while_the_honest_group_forms() {
    let (listeners, peers) = listeners(3);
    let stale = TcpListener::bind("127.0.0.1:0").unwrap();
    std::thread::scope(|scope| {
        let peers = &peers;
        let late = scope.spawn(move || connect(&stale, 2, peers, &group(3), &quick(true)).map(drop).unwrap_err());
        let first = scope.spawn({
            let listeners = &listeners;
            move || {
                let mut ring = connect(&listeners[0], 0, peers, &group(4), &quick(true)).unwrap();
                reduce(&mut ring, 10)
            }
        });
        // Rank 0 cannot finish without the others, so the stale one meets it, and is refused, before they come.
        let refused = late.join().unwrap();
        let said = "w0:1 (rank 0) refused this rank: generation 3 is stale, generation 4 is forming";
        assert_eq!(refused.to_string(), said);
        let rest: Vec<_> = [1, 2]
            .map(|me| {
                let listener = &listeners[me];
                scope.spawn(move || reduce(&mut connect(listener, me, peers, &group(4), &quick(true)).unwrap(), 10))
            })
            .into_iter()
            .map(|rank| rank.join().unwrap())
            .collect();
        let first = first.join().unwrap();
        assert!(rest.iter().all(|sums| *sums == first));
    });
}

#[test]
fn a_rank_ahead_of_its_peer_waits_until_the_peer_reaches_its_generation() {
    let (listeners, peers) = listeners(2);
    std::thread::scope(|scope| {
        let (peers, listeners) = (&peers, &listeners);
        let ahead =
            scope.spawn(move || reduce(&mut connect(&listeners[1], 1, peers, &group(2), &quick(true)).unwrap(), 10));
        let short = Options { rendezvous: Duration::from_millis(300), ..quick(true) };
        let behind = connect(&listeners[0], 0, peers, &group(1), &short).map(drop).unwrap_err();
        assert!(matches!(behind, ConnectError::Missing { .. }), "{behind}");
        let sums = reduce(&mut connect(&listeners[0], 0, peers, &group(2), &quick(true)).unwrap(), 10);
        assert!(sums == ahead.join().unwrap());
    });
}

#[test]
fn garbage_and_silent_clients_do_not_disturb() {
    let (listeners, peers) = listeners(2);
    let silent: Vec<_> = (0..40).map(|_| TcpStream::connect(peers[0].address).unwrap()).collect();
    let mut garbage: Vec<_> = (0..20).map(|_| TcpStream::connect(peers[0].address).unwrap()).collect();
    for client in &mut garbage {
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    }
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for (me, listener) in listeners.iter().enumerate() {
            let peers = &peers;
            scope.spawn(move || {
                let options = Options { handshake: Duration::from_secs(600), ..quick(true) };
                reduce(&mut connect(listener, me, peers, &group(1), &options).unwrap(), 10)
            });
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(10));
    drop(silent);
}

#[test]
fn a_silent_client_is_dropped_after_the_handshakes_time() {
    let (listeners, peers) = listeners(2);
    let mut silent = TcpStream::connect(peers[0].address).unwrap();
    let options =
        Options { handshake: Duration::from_millis(50), rendezvous: Duration::from_secs(1), ..Options::default() };
    let missing = connect(&listeners[0], 0, &peers, &group(1), &options).map(drop).unwrap_err();
    let said = "1 of 1 peers missing after 1s: w1:1 (rank 1) (it did not come)";
    assert_eq!(missing.to_string(), said);
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
}

#[test]
fn peers_that_do_not_come_or_go_again_are_named_each() {
    let (mut listeners, peers) = listeners(3);
    drop(listeners.remove(1));
    let wait = |me: usize, listener: &TcpListener, milliseconds: u64| {
        let options = Options { rendezvous: Duration::from_millis(milliseconds), ..Options::default() };
        connect(listener, me, &peers, &group(1), &options).map(drop).unwrap_err().to_string()
    };
    std::thread::scope(|scope| {
        let patient = scope.spawn(|| wait(0, &listeners[0], 3000));
        let hasty = wait(2, &listeners[1], 300);
        assert!(hasty.starts_with("1 of 2 peers missing after 300ms: w1:1 (rank 1) (Connection refused"), "{hasty}");
        let said = "2 of 2 peers missing after 3s: \
                    w1:1 (rank 1) (it did not come), w2:1 (rank 2) (it came, and went again)";
        assert_eq!(patient.join().unwrap(), said);
    });
}

#[test]
fn a_wait_for_peers_can_be_cancelled() {
    let (listeners, peers) = listeners(2);
    let options = Options::default();
    let cancelled = std::sync::Arc::clone(&options.cancelled);
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| connect(&listeners[0], 0, &peers, &group(1), &options).map(drop).unwrap_err());
        cancelled.store(true, std::sync::atomic::Ordering::Release);
        assert_eq!(waiter.join().unwrap().to_string(), "cancelled while waiting for w1:1 (rank 1)");
    });
}

const CHILD: &str = "LOCKSTEP_TEST_RING_CHILD";

/// Not a test of its own: rank 2 of `kill`'s group, in a process that can be killed. Reduces until it may not go on, then for ever waits.
#[test]
fn a_child_process_reduces_until_it_is_killed() {
    let Ok(words) = std::env::var(CHILD) else { return };
    let words: Vec<_> = words.split(' ').collect();
    let (memory, rounds) = (words[0] == "memory", words[1].parse::<usize>().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = |text: &str| text.parse().unwrap_or_else(|_| listener.local_addr().unwrap());
    let peers: Vec<_> = [words[2], words[3], ""]
        .iter()
        .enumerate()
        .map(|(rank, text)| PeerAddress { worker: format!("w{rank}:1"), address: address(text), machine: "m".into() })
        .collect();
    let mut ring = connect(&listener, 2, &peers, &group(1), &quick(memory)).unwrap();
    for _ in 0..rounds {
        reduce(&mut ring, 300_000);
    }
    println!("\nchild stops");
    std::thread::park();
    drop(ring);
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Two ranks here and one in a child process, which is killed: at a round's end while the two wait for it, or in the middle of rounds.
/// Returns what the survivors say, and how long after the kill.
fn kill(shared_memory: bool, while_waiting: bool) -> Vec<(Lost, Duration)> {
    let (listeners, peers) = listeners(3);
    let transport = if shared_memory { "memory" } else { "tcp" };
    let rounds = if while_waiting { 5 } else { usize::MAX };
    let module = module_path!().split_once("::").unwrap().1;
    let mut child = Killed(
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("{module}::a_child_process_reduces_until_it_is_killed"), "--nocapture"])
            .env(CHILD, format!("{transport} {rounds} {} {}", peers[0].address, peers[1].address))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let (progress, rounds_done) = mpsc::channel();
    std::thread::scope(|scope| {
        let survivors: Vec<_> = listeners[..2]
            .iter()
            .enumerate()
            .map(|(me, listener)| {
                let (peers, progress) = (&peers, progress.clone());
                scope.spawn(move || {
                    let mut ring = connect(listener, me, peers, &group(1), &quick(shared_memory)).unwrap();
                    assert_eq!(ring.transport(2), Some(transport));
                    let (mut gradients, mut tail) = (gradients(me, 300_000), tail(me));
                    loop {
                        if let Err(lost) = ring.all_reduce(&mut gradients, &mut tail) {
                            return (lost, Instant::now());
                        }
                        let _ = progress.send(());
                    }
                })
            })
            .collect();
        if while_waiting {
            lines.find(|line| line.as_ref().unwrap() == "child stops").unwrap().unwrap();
        } else {
            (0..20).for_each(|_| rounds_done.recv_timeout(Duration::from_secs(20)).unwrap());
        }
        let killed = Instant::now();
        child.0.kill().unwrap();
        let lost = survivors.into_iter().map(|survivor| survivor.join().unwrap());
        lost.map(|(lost, at)| (lost, at.saturating_duration_since(killed))).collect()
    })
}

#[test]
fn a_killed_process_is_named_by_every_survivor() {
    for shared_memory in [true, false] {
        for while_waiting in [true, false] {
            for (lost, after) in kill(shared_memory, while_waiting) {
                eprintln!("memory {shared_memory}, while waiting {while_waiting}: {lost}, after {after:?}");
                assert_eq!(lost.peer, Some(2), "{lost}");
                assert!(after < Duration::from_secs(5), "noticed after {after:?}");
            }
        }
    }
}
