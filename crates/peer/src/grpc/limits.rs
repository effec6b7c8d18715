//! The limits of the peer protocol, and of the listener that it shares with clients, each with its reason.

use std::time::Duration;

use larder_core::{
    KEY_LEN_MAX,
    claim::{PUSH_ENTRIES_MAX, PUSH_LEN, PUSH_VALUE_LEN_MAX},
    health,
};

/// The most connections of one link. HTTP/2 has a lock a connection, so that one connection keeps about one core busy.
pub const LANES_MAX: usize = 4;

/// How many requests may wait in each lane before the link opens another. Below it, more lanes make smaller frames only.
pub const LANE_LOAD: usize = 1024;

/// The most requests of a lane, unsent ones included: as many as a node has flights. Beyond it: overloaded.
pub const PENDING_MAX: usize = 65_536;

/// The most requests of a lane that are sent and not answered. The others wait in the queue until their deadline. A node
/// that loads this many keys at once for one other node has more to do than it can.
pub const IN_FLIGHT_MAX: usize = 8_192;

/// The most questions of one connection that are answered in tasks of their own at once: what an asker may have in flight.
pub const TASKS_MAX: usize = IN_FLIGHT_MAX;

/// The most requests or answers in a frame. More make a frame no cheaper and its last answer later.
pub const FRAME_COUNT_MAX: usize = 1_024;

/// The most fields of a message that is read, each element of a list for itself: many times what a node puts into a frame.
/// Empty elements are small on the wire and large in memory.
pub const FIELDS_MAX: usize = 16 * FRAME_COUNT_MAX;

/// When a frame takes nothing more, in bytes: what a connection sends at a go. The last thing in it may go beyond.
pub const FRAME_LEN: usize = 128 * 1024;

/// The longest thing that is said about slots, in bytes: the entries of a push, with room for what is known of them. What is
/// longer is not sent.
pub const SLOTS_LEN_MAX: usize = 512 * 1024;

/// The most things that an answer to a claim says, each of slots of its own. Nodes that agree on what was before say one; the
/// slots of which it says nothing are claimed again.
pub const CLAIM_ANSWERS_MAX: usize = 1_024;

/// The longest frame that an asker may send, in bytes: [`FRAME_LEN`], a value or something about slots, and a chunk of
/// [`CHUNK_LEN`], with room.
pub const ASKER_FRAME_LEN_MAX: usize = 1024 * 1024;

/// The longest frame that is taken from who answers, in bytes: the same, or a view of the most members there are, or what is
/// said to a claim.
pub const ANSWERER_FRAME_LEN_MAX: usize = 4 * 1024 * 1024;

const _: () = assert!(
    PUSH_LEN + PUSH_VALUE_LEN_MAX + KEY_LEN_MAX + 256 * PUSH_ENTRIES_MAX <= SLOTS_LEN_MAX
        && FRAME_LEN + SLOTS_LEN_MAX + CHUNK_LEN < ASKER_FRAME_LEN_MAX
        && FRAME_LEN + CLAIM_ANSWERS_MAX * 3 * 1024 + CHUNK_LEN < ANSWERER_FRAME_LEN_MAX
);

/// The longest piece of a value that travels at once, in bytes; longer values are cut up. On a gigabit link it holds up what
/// comes after it for 2 ms.
pub const CHUNK_LEN: usize = 256 * 1024;

/// The most bytes of values that one connection may have announced in chunks and not sent whole: eight of the longest
/// values that groups allow unless told otherwise.
pub const PARTIAL_LEN_MAX: usize = 64 * 1024 * 1024;

/// The most values that one connection may have announced in chunks and not sent whole: long ones come to fewer.
pub const PARTIAL_COUNT_MAX: usize = 1_024;

/// The most bytes of values that one connection may have announced in chunks to who asked, and not sent whole. What an
/// answering node has ready comes to a quarter of it ([`READY_LEN_MAX`]); the rest is what has come of those.
pub const ANNOUNCED_LEN_MAX: usize = 4 * READY_LEN_MAX;

/// How many bytes of answers may wait to be sent on a connection before no more questions are read from it.
pub const READY_LEN: usize = 16 * 1024 * 1024;

/// The most bytes of answers that wait to be sent on a connection, and of those that wait to be taken up to be sent. What
/// would go beyond is refused: overloaded.
pub const READY_LEN_MAX: usize = 64 * 1024 * 1024;

/// How many answers may wait to be sent on a connection before no more questions are read from it.
pub const READY_COUNT: usize = 8_192;

/// How many frames are read before what came is answered: those that came together are looked at together, but nobody waits
/// for an endless row of them.
pub const FRAMES_A_TURN: usize = 8;

/// How many answers a lane hands out before those who got them have their turn, as a part of the requests that it has: the
/// two nodes work at the same time if neither has all of them, and frames of a quarter cost little more than whole ones.
pub const HANDED_PART: usize = 4;

/// The fewest answers that it hands out at a go, if there are as many: smaller frames cost more than they save.
pub const HANDED_MIN: usize = 32;

/// The most answers that it hands out at a go: those who wait have some hundred microseconds of work together.
pub const HANDED_MAX: usize = 256;

/// The longest name of a group, in bytes.
pub const GROUP_LEN_MAX: usize = 64;

/// The HTTP/2 window of a stream, in bytes: how much may be under way. A gigabit link of 60 ms holds it.
pub const STREAM_WINDOW: u32 = 8 * 1024 * 1024;

/// The HTTP/2 window of a connection, in bytes.
pub const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// How long connecting may take, hello included: a node that is there takes milliseconds.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// The first pause after a connection could not be made; it doubles, and half of it is chance.
pub const BACK_OFF_MIN: Duration = Duration::from_millis(50);

/// The longest such pause. Short, as a node leaves one that is away alone for longer, whoever asks for it.
pub const BACK_OFF_MAX: Duration = Duration::from_millis(250);

// A link heals within two seconds: an attempt to connect that began before the other node was back, a pause of the node
// that asks, which is never shorter than the link's, and a hello.
const _: () = assert!(
    CONNECT_TIMEOUT.as_millis() + health::BACK_OFF_MAX.as_millis() < 2_000
        && BACK_OFF_MAX.as_millis() <= health::BACK_OFF_MAX.as_millis() / 2
);

/// How often a connection that has requests pending is looked at for silence.
pub const TICK: Duration = Duration::from_millis(100);

/// The same for one that has none.
pub const TICK_IDLE: Duration = Duration::from_millis(500);

/// After this many ticks of silence the other node is asked for a sign of life: half a second.
pub const PING_AFTER_TICKS: u32 = 5;

/// After this many ticks of silence it is given up: a second later.
pub const GIVE_UP_AFTER_TICKS: u32 = 15;

/// How much time between two looks for passed deadlines: nobody needs them exact to the millisecond.
pub const SWEEP_EVERY_MIN: Duration = Duration::from_millis(2);

/// How long a lane looks ahead for deadlines at most.
pub const SWEEP_EVERY_MAX: Duration = Duration::from_secs(1);

/// How long who connected may take to say hello.
pub const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// The most connections at once: [`LANES_MAX`] from each of a thousand nodes, and [`CLIENT_CONNECTIONS_MAX`].
pub const CONNECTIONS_MAX: usize = 4_096 + CLIENT_CONNECTIONS_MAX;

/// The most connections on which clients call. A gRPC client has one or a few for all of its callers.
pub const CLIENT_CONNECTIONS_MAX: usize = 4_096;

/// How long a connection may take to its first request: as long as the HTTP listener gives it.
pub const FIRST_STREAM_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection is kept on which nothing is under way. Clients keep theirs for the next call, and connect again
/// without a word if there is none.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// How long a connection may take to close after all on it has ended.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The most streams that are open at once on a connection: an exchange, and calls. Callers of a client that has more wait
/// in it, or it connects once more. RFC 9113 recommends no fewer than 100.
pub const STREAMS_MAX: u32 = 256;

/// The most streams that were reset before they were looked at, as when a client cancels all it asked at once. Who goes on
/// beyond it is after something else.
pub const RESETS_MAX: usize = STREAMS_MAX as usize;

/// The longest list of headers of a request, in bytes. Keys and groups are not in it; traces and tokens may be.
pub const HEADERS_LEN_MAX: u32 = 16 * 1024;

/// The longest message of most calls, in bytes: a key and a group, with room for what newer clients add.
pub const MESSAGE_LEN_MAX: usize = 8 * 1024;

/// The longest message that asks for several keys, in bytes: as many of the longest as there may be, with room.
pub const GET_MANY_LEN_MAX: usize = 2 * 1024 * 1024;

/// How many bytes a message that puts a value may have beside the value.
pub const PUT_HEAD_LEN_MAX: usize = MESSAGE_LEN_MAX;

/// From which length on a message takes room, in bytes: shorter ones are bounded by the number of streams.
pub const LONG_MESSAGE_LEN: usize = MESSAGE_LEN_MAX;

/// The most bytes of long messages of all calls that are held at once, of requests and of answers. Calls beyond it wait, within
/// their deadlines. 32 values of the longest that groups allow unless told otherwise.
pub const MESSAGES_LEN_MAX: usize = 256 * 1024 * 1024;

/// The same for the calls of one connection: the longest answer there is. A client that does not read holds up itself.
pub const CONNECTION_MESSAGES_LEN_MAX: usize = 64 * 1024 * 1024;

/// What both are counted in, in bytes: a semaphore can't count single ones.
pub const MESSAGES_LEN_UNIT: usize = 1024;

/// The longest piece of an answer that is handed to HTTP/2 at once, in bytes. What is handed over is out of our hands, so
/// that a client that does not read holds no more than this beyond the HTTP/2 buffers.
pub const PIECE_LEN: usize = 64 * 1024;

/// How long a call may last, from its beginning to where its answer was read: the longest deadline there is, and half a
/// minute for the reading. Beyond it the connection is cut.
pub const CALL_TIME_MAX: Duration = Duration::from_secs(90);

/// How often readiness is looked at for who watches it: it depends on the view and on more, none of which tells.
pub const WATCH_EVERY: Duration = Duration::from_millis(500);

/// How often an idle connection is checked by the node that was connected to.
pub const KEEP_ALIVE_EVERY: Duration = Duration::from_secs(10);

/// How long such a check may take.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest that a request may take: what is asked for beyond it is cut.
pub const DEADLINE_MAX: Duration = Duration::from_secs(60);

/// How long beyond its deadline an answer is worked at: the asker's clock may be a little later, and gives up first.
pub const DEADLINE_GRACE: Duration = Duration::from_secs(1);
