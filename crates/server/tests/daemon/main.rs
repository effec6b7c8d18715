//! The daemon as a process among others: real sockets, real signals, real deaths.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "the helpers of tests fail them")]

#[path = "../http/answer.rs"]
#[expect(dead_code, reason = "the fuzzing test needs less of it than the tests of the listener")]
mod answer;
mod behind;
mod behind_cluster;
mod behind_restarts;
mod behind_torture;
mod bench;
#[path = "../http/broken.rs"]
mod broken;
#[path = "../../../peer/tests/cache/channel.rs"]
#[expect(dead_code, reason = "nothing is sent as it is here")]
mod channel;
mod churn;
mod client;
mod cluster;
mod commands;
mod crowd;
mod data_dir;
mod dead_letters;
mod failing_disk;
mod faults;
mod full_disk;
mod fuzz;
#[path = "../../../peer/tests/groupcache/go.rs"]
mod go;
mod gossip;
mod grpc;
mod history;
mod keys;
mod lifecycle;
mod load;
mod load_lock;
mod lock_command;
mod lock_owners;
mod locks;
mod locks_between;
mod members;
mod memory;
mod mixed;
mod moves;
mod one_load;
mod origin;
mod outage;
mod poison;
mod process;
#[path = "../../../peer/tests/shared/proxy.rs"]
#[expect(dead_code, reason = "no node is gone for good here")]
mod proxy;
mod reads;
mod registries;
mod reload;
mod sink;
mod traffic;
mod ways;
mod writes;
