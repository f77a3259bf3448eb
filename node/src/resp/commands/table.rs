//! The table of commands. Those that are called most stand first, for it is searched
//! from the start.

use super::introspect::Group;
use super::{
    Command, Handler, Keys, acl, cluster, connection, expiry, introspect, keys, server, strings,
    tracking,
};

const NO_KEYS: Keys = Keys {
    first: 0,
    last: 0,
    step: 0,
};
const ONE_KEY: Keys = Keys {
    first: 1,
    last: 1,
    step: 1,
};
const ALL_KEYS: Keys = Keys {
    first: 1,
    last: -1,
    step: 1,
};
const PAIRS: Keys = Keys {
    first: 1,
    last: -1,
    step: 2,
};

const READ: &[&str] = &["readonly", "fast"];
const SLOW_READ: &[&str] = &["readonly"];
const WRITE: &[&str] = &["write"];
const WRITE_OOM: &[&str] = &["write", "denyoom"];
const WRITE_OOM_FAST: &[&str] = &["write", "denyoom", "fast"];
const WRITE_FAST: &[&str] = &["write", "fast"];
const SESSION: &[&str] = &[
    "noscript",
    "loading",
    "stale",
    "fast",
    "no_auth",
    "allow_busy",
];
const ADMIN: &[&str] = &["admin", "noscript", "loading", "stale"];
const PLAIN: &[&str] = &["noscript", "loading", "stale"];
const PUBSUB: &[&str] = &["pubsub", "noscript", "loading", "stale"];
const STALE: &[&str] = &["stale"];
const LOADING_STALE: &[&str] = &["loading", "stale"];
const NONE: &[&str] = &[];

#[allow(clippy::too_many_arguments)]
const fn command(
    name: &'static str,
    arity: i64,
    flags: &'static [&'static str],
    keys: Keys,
    group: Group,
    since: &'static str,
    handler: Handler,
    summary: &'static str,
) -> Command {
    Command {
        name,
        arity,
        flags,
        keys,
        group,
        since,
        summary,
        handler,
        subcommands: &[],
    }
}

const fn container(
    name: &'static str,
    arity: i64,
    flags: &'static [&'static str],
    since: &'static str,
    handler: Handler,
    summary: &'static str,
    subcommands: &'static [Command],
) -> Command {
    Command {
        name,
        arity,
        flags,
        keys: NO_KEYS,
        group: Group::Server,
        since,
        summary,
        handler,
        subcommands,
    }
}

const fn sub(
    name: &'static str,
    arity: i64,
    flags: &'static [&'static str],
    since: &'static str,
    handler: Handler,
    summary: &'static str,
) -> Command {
    command(
        name,
        arity,
        flags,
        NO_KEYS,
        Group::Server,
        since,
        handler,
        summary,
    )
}

/// Finds a command by name, in whatever case.
pub(crate) fn find(name: &[u8]) -> Option<&'static Command> {
    COMMANDS
        .iter()
        .find(|command| command.name.as_bytes().eq_ignore_ascii_case(name))
}

/// Finds a subcommand by name, in whatever case.
pub(crate) fn find_in(
    subcommands: &'static [Command],
    container: &str,
    name: &[u8],
) -> Option<&'static Command> {
    subcommands.iter().find(|command| {
        command
            .name
            .get(container.len() + 1..)
            .is_some_and(|own| own.as_bytes().eq_ignore_ascii_case(name))
    })
}

/// Every command.
#[rustfmt::skip]
pub(crate) static COMMANDS: &[Command] = &[
    command("get", 2, READ, ONE_KEY, Group::String, "1.0.0", strings::get,
        "Get the value of a key"),
    command("set", -3, WRITE_OOM, ONE_KEY, Group::String, "1.0.0", strings::set,
        "Set the string value of a key"),
    command("incr", 2, WRITE_OOM_FAST, ONE_KEY, Group::String, "1.0.0", strings::incr,
        "Increment the integer value of a key by one"),
    command("del", -2, WRITE, ALL_KEYS, Group::Generic, "1.0.0", keys::del,
        "Delete a key"),
    command("mget", -2, READ, ALL_KEYS, Group::String, "1.0.0", strings::mget,
        "Get the values of all the given keys"),
    command("exists", -2, READ, ALL_KEYS, Group::Generic, "1.0.0", keys::exists,
        "Determine if a key exists"),
    command("incrby", 3, WRITE_OOM_FAST, ONE_KEY, Group::String, "1.0.0", strings::incr_by,
        "Increment the integer value of a key by the given amount"),
    command("decr", 2, WRITE_OOM_FAST, ONE_KEY, Group::String, "1.0.0", strings::decr,
        "Decrement the integer value of a key by one"),
    command("decrby", 3, WRITE_OOM_FAST, ONE_KEY, Group::String, "1.0.0", strings::decr_by,
        "Decrement the integer value of a key by the given number"),
    command("setnx", 3, WRITE_OOM_FAST, ONE_KEY, Group::String, "1.0.0", strings::set_nx,
        "Set the value of a key, only if the key does not exist"),
    command("setex", 4, WRITE_OOM, ONE_KEY, Group::String, "2.0.0", strings::set_ex,
        "Set the value and expiration of a key"),
    command("psetex", 4, WRITE_OOM, ONE_KEY, Group::String, "2.6.0", strings::pset_ex,
        "Set the value and expiration in milliseconds of a key"),
    command("getset", 3, WRITE_OOM_FAST, ONE_KEY, Group::String, "1.0.0", strings::get_set,
        "Set the string value of a key and return its old value"),
    command("getdel", 2, WRITE_FAST, ONE_KEY, Group::String, "6.2.0", expiry::get_del,
        "Get the value of a key and delete the key"),
    command("getex", -2, WRITE_FAST, ONE_KEY, Group::String, "6.2.0", expiry::get_ex,
        "Get the value of a key and optionally set its expiration"),
    command("mset", -3, WRITE_OOM, PAIRS, Group::String, "1.0.1", strings::mset,
        "Set multiple keys to multiple values"),
    command("msetnx", -3, WRITE_OOM, PAIRS, Group::String, "1.0.1", strings::mset_nx,
        "Set multiple keys to multiple values, only if none of the keys exist"),
    command("append", 3, WRITE_OOM_FAST, ONE_KEY, Group::String, "2.0.0", strings::append,
        "Append a value to a key"),
    command("setrange", 4, WRITE_OOM, ONE_KEY, Group::String, "2.2.0", strings::set_range,
        "Overwrite part of a string at key starting at the specified offset"),
    command("getrange", 4, SLOW_READ, ONE_KEY, Group::String, "2.4.0", strings::get_range,
        "Get a substring of the string stored at a key"),
    command("strlen", 2, READ, ONE_KEY, Group::String, "2.2.0", strings::strlen,
        "Get the length of the value stored in a key"),
    command("unlink", -2, WRITE_FAST, ALL_KEYS, Group::Generic, "4.0.0", keys::del,
        "Delete a key asynchronously in another thread. Otherwise it is just as DEL, but non blocking."),
    command("touch", -2, READ, ALL_KEYS, Group::Generic, "3.2.1", keys::exists,
        "Alters the last access time of a key(s). Returns the number of existing keys specified."),
    command("type", 2, READ, ONE_KEY, Group::Generic, "1.0.0", keys::type_of,
        "Determine the type stored at key"),
    command("expire", -3, WRITE_FAST, ONE_KEY, Group::Generic, "1.0.0", expiry::expire,
        "Set a key's time to live in seconds"),
    command("pexpire", -3, WRITE_FAST, ONE_KEY, Group::Generic, "2.6.0", expiry::pexpire,
        "Set a key's time to live in milliseconds"),
    command("expireat", -3, WRITE_FAST, ONE_KEY, Group::Generic, "1.2.0", expiry::expire_at,
        "Set the expiration for a key as a UNIX timestamp"),
    command("pexpireat", -3, WRITE_FAST, ONE_KEY, Group::Generic, "2.6.0", expiry::pexpire_at,
        "Set the expiration for a key as a UNIX timestamp specified in milliseconds"),
    command("persist", 2, WRITE_FAST, ONE_KEY, Group::Generic, "2.2.0", expiry::persist,
        "Remove the expiration from a key"),
    command("ttl", 2, READ, ONE_KEY, Group::Generic, "1.0.0", expiry::ttl,
        "Get the time to live for a key in seconds"),
    command("pttl", 2, READ, ONE_KEY, Group::Generic, "2.6.0", expiry::pttl,
        "Get the time to live for a key in milliseconds"),
    command("expiretime", 2, READ, ONE_KEY, Group::Generic, "7.0.0", expiry::expire_time,
        "Get the expiration Unix timestamp for a key"),
    command("pexpiretime", 2, READ, ONE_KEY, Group::Generic, "7.0.0", expiry::pexpire_time,
        "Get the expiration Unix timestamp for a key in milliseconds"),
    command("ping", -1, &["fast"], NO_KEYS, Group::Connection, "1.0.0", connection::ping,
        "Ping the server"),
    command("echo", 2, &["loading", "stale", "fast"], NO_KEYS, Group::Connection, "1.0.0",
        connection::echo, "Echo the given string"),
    command("hello", -1, SESSION, NO_KEYS, Group::Connection, "6.0.0", connection::hello,
        "Handshake with Redis"),
    command("auth", -2, SESSION, NO_KEYS, Group::Connection, "1.0.0", connection::auth,
        "Authenticate to the server"),
    command("select", 2, &["loading", "stale", "fast"], NO_KEYS, Group::Connection, "1.0.0",
        connection::select, "Change the selected database for the current connection"),
    command("readonly", 1, &["loading", "stale", "fast"], NO_KEYS, Group::Cluster, "3.0.0",
        connection::readonly, "Enables read queries for a connection to a cluster replica node"),
    command("readwrite", 1, &["loading", "stale", "fast"], NO_KEYS, Group::Cluster, "3.0.0",
        connection::readwrite, "Disables read queries for a connection to a cluster replica node"),
    command("quit", -1, SESSION, NO_KEYS, Group::Connection, "1.0.0", connection::quit,
        "Close the connection"),
    command("reset", 1, SESSION, NO_KEYS, Group::Connection, "6.2.0", connection::reset,
        "Reset the connection"),
    container("acl", -2, NONE, "6.0.0", acl::acl,
        "A container for Access List Control commands", ACL),
    container("client", -2, NONE, "2.4.0", connection::client,
        "A container for client connection commands", CLIENT),
    container("cluster", -2, NONE, "3.0.0", cluster::cluster,
        "A container for cluster commands", CLUSTER),
    container("command", -1, LOADING_STALE, "2.8.13", introspect::command,
        "Get array of Redis command details", COMMAND),
    container("config", -2, NONE, "2.0.0", server::config,
        "A container for server configuration commands", CONFIG),
    command("info", -1, LOADING_STALE, NO_KEYS, Group::Server, "1.0.0", server::info,
        "Get information and statistics about the server"),
    command("dbsize", 1, READ, NO_KEYS, Group::Server, "1.0.0", server::dbsize,
        "Return the number of keys in the selected database"),
    command("scan", -2, &["readonly"], NO_KEYS, Group::Generic, "2.8.0", keys::scan,
        "Incrementally iterate the keys space"),
    command("keys", 2, &["readonly"], NO_KEYS, Group::Generic, "1.0.0", keys::keys,
        "Find all keys matching the given pattern"),
    command("time", 1, &["loading", "stale", "fast"], NO_KEYS, Group::Server, "2.6.0",
        server::time, "Return the current server time"),
    command("role", 1, &["noscript", "loading", "stale", "fast"], NO_KEYS, Group::Server, "2.8.12", server::role,
        "Return the role of the instance in the context of replication"),
    command("subscribe", -2, PUBSUB, NO_KEYS, Group::Pubsub, "2.0.0", tracking::subscribe,
        "Listen for messages published to the given channels"),
    command("unsubscribe", -1, PUBSUB, NO_KEYS, Group::Pubsub, "2.0.0", tracking::unsubscribe,
        "Stop listening for messages posted to the given channels"),
    command("wait", 3, &["noscript"], NO_KEYS, Group::Generic, "3.0.0", server::wait,
        "Wait for the synchronous replication of all the write commands sent in the context of the current connection"),
];

#[rustfmt::skip]
static ACL: &[Command] = &[
    sub("acl|whoami", 2, PLAIN, "6.0.0", acl::whoami, "Return the name of the user associated to the current connection"),
    sub("acl|help", 2, LOADING_STALE, "6.0.0", acl::help, "Show helpful text about the different subcommands"),
];

#[rustfmt::skip]
static CLIENT: &[Command] = &[
    sub("client|getname", 2, PLAIN, "2.6.9", connection::client_getname, "Get the current connection name"),
    sub("client|setname", 3, PLAIN, "2.6.9", connection::client_setname, "Set the current connection name"),
    sub("client|setinfo", 4, PLAIN, "7.2.0", connection::client_setinfo, "Set client or connection specific info"),
    sub("client|id", 2, PLAIN, "5.0.0", connection::client_id, "Returns the client ID for the current connection"),
    sub("client|info", 2, PLAIN, "6.2.0", connection::client_info, "Returns information about the current client connection."),
    sub("client|list", -2, ADMIN, "2.4.0", connection::client_list, "Get the list of client connections"),
    sub("client|kill", -3, ADMIN, "2.4.0", connection::client_kill, "Kill the connection of a client"),
    sub("client|reply", 3, PLAIN, "3.2.0", connection::client_reply, "Instruct the server whether to reply to commands"),
    sub("client|no-evict", 3, ADMIN, "7.0.0", connection::client_no_evict, "Set client eviction mode for the current connection"),
    sub("client|no-touch", 3, PLAIN, "7.2.0", connection::client_no_evict, "Controls whether commands sent by the client will alter the LRU/LFU of the keys they access."),
    sub("client|getredir", 2, PLAIN, "6.0.0", tracking::client_getredir, "Get tracking notifications redirection client ID if any"),
    sub("client|tracking", -3, PLAIN, "6.0.0", tracking::client_tracking, "Enable or disable server assisted client side caching support"),
    sub("client|caching", 3, PLAIN, "6.0.0", tracking::client_caching, "Instruct the server about tracking or not keys in the next request"),
    sub("client|trackinginfo", 2, PLAIN, "6.2.0", tracking::client_trackinginfo, "Return information about server assisted client side caching for the current connection"),
    sub("client|help", 2, LOADING_STALE, "5.0.0", connection::client_help, "Show helpful text about the different subcommands"),
];

#[rustfmt::skip]
static CLUSTER: &[Command] = &[
    sub("cluster|slots", 2, STALE, "3.0.0", cluster::slots, "Get array of Cluster slot to node mappings"),
    sub("cluster|shards", 2, STALE, "7.0.0", cluster::shards, "Get array of cluster slots to node mappings"),
    sub("cluster|nodes", 2, STALE, "3.0.0", cluster::nodes, "Get Cluster config for the node"),
    sub("cluster|info", 2, STALE, "3.0.0", cluster::info, "Provides info about Redis Cluster node state"),
    sub("cluster|keyslot", 3, STALE, "3.0.0", cluster::keyslot, "Returns the hash slot of the specified key"),
    sub("cluster|myid", 2, STALE, "3.0.0", cluster::my_id, "Return the node id"),
    sub("cluster|myshardid", 2, STALE, "7.2.0", cluster::my_id, "Returns the shard ID of a node."),
    sub("cluster|links", 2, STALE, "7.0.0", cluster::links, "Returns a list of all TCP links to and from peer nodes in cluster"),
    sub("cluster|replicas", 3, ADMIN, "5.0.0", cluster::replicas, "List replica nodes of the specified master node"),
    sub("cluster|slaves", 3, ADMIN, "3.0.0", cluster::replicas, "List replica nodes of the specified master node"),
    sub("cluster|help", 2, LOADING_STALE, "5.0.0", cluster::help, "Show helpful text about the different subcommands"),
];

#[rustfmt::skip]
static COMMAND: &[Command] = &[
    sub("command|count", 2, LOADING_STALE, "2.8.13", introspect::count, "Get total number of Redis commands"),
    sub("command|docs", -2, LOADING_STALE, "7.0.0", introspect::docs, "Get array of specific Redis command documentation"),
    sub("command|getkeys", -4, LOADING_STALE, "2.8.13", introspect::getkeys, "Extract keys given a full Redis command"),
    sub("command|info", -2, LOADING_STALE, "2.8.13", introspect::info, "Get array of specific Redis command details, or all when no argument is given."),
    sub("command|list", -2, LOADING_STALE, "7.0.0", introspect::list, "Get an array of Redis command names"),
    sub("command|help", 2, LOADING_STALE, "5.0.0", introspect::help, "Show helpful text about the different subcommands"),
];

#[rustfmt::skip]
static CONFIG: &[Command] = &[
    sub("config|get", -3, ADMIN, "2.0.0", server::config_get, "Get the values of configuration parameters"),
    sub("config|set", -4, ADMIN, "2.0.0", server::config_set, "Set configuration parameters to the given values"),
    sub("config|resetstat", 2, ADMIN, "2.0.0", server::config_resetstat, "Reset the stats returned by INFO"),
    sub("config|help", 2, LOADING_STALE, "5.0.0", server::config_help, "Show helpful text about the different subcommands"),
];
