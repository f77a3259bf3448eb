//! The commands that change expiries, several keys, or parts of values; the expected bytes
//! are those of redis-server 7.0.15 in cluster mode.

use crate::commands::script;

#[tokio::test]
async fn getting_and_deleting() {
    script(&[
        ("SET k v EX 100", "+OK\r\n"),
        ("GETDEL k", "$1\r\nv\r\n"),
        ("GETDEL k", "$-1\r\n"),
        ("EXISTS k", ":0\r\n"),
        (
            "GETDEL",
            "-ERR wrong number of arguments for 'getdel' command\r\n",
        ),
        (
            "GETDEL k j",
            "-ERR wrong number of arguments for 'getdel' command\r\n",
        ),
    ])
    .await;
}

#[tokio::test]
async fn getting_and_expiring() {
    script(&[
        ("GETEX k", "$-1\r\n"),
        ("SET k v", "+OK\r\n"),
        ("GETEX k", "$1\r\nv\r\n"),
        ("TTL k", ":-1\r\n"),
        ("GETEX k EX 100", "$1\r\nv\r\n"),
        ("TTL k", ":100\r\n"),
        ("GETEX k EX 100 EX 200", "$1\r\nv\r\n"),
        ("TTL k", ":200\r\n"),
        ("GETEX k PX 300000", "$1\r\nv\r\n"),
        ("TTL k", ":300\r\n"),
        ("GETEX k EXAT 33177117420", "$1\r\nv\r\n"),
        ("EXPIRETIME k", ":33177117420\r\n"),
        ("GETEX k PXAT 33177117420000", "$1\r\nv\r\n"),
        ("PEXPIRETIME k", ":33177117420000\r\n"),
        ("GETEX k PERSIST", "$1\r\nv\r\n"),
        ("TTL k", ":-1\r\n"),
        ("GETEX k PERSIST PERSIST", "$1\r\nv\r\n"),
        ("GETEX k EX", "-ERR syntax error\r\n"),
        ("GETEX k EX 10 PX 10", "-ERR syntax error\r\n"),
        ("GETEX k EX 10 PERSIST", "-ERR syntax error\r\n"),
        ("GETEX k PERSIST EX 10", "-ERR syntax error\r\n"),
        ("GETEX k NX", "-ERR syntax error\r\n"),
        ("GETEX k KEEPTTL", "-ERR syntax error\r\n"),
        (
            "GETEX k EX 0",
            "-ERR invalid expire time in 'getex' command\r\n",
        ),
        (
            "GETEX k EX -1",
            "-ERR invalid expire time in 'getex' command\r\n",
        ),
        (
            "GETEX k EX a",
            "-ERR value is not an integer or out of range\r\n",
        ),
        (
            "GETEX k PX 9223372036854775807",
            "-ERR invalid expire time in 'getex' command\r\n",
        ),
        ("GETEX none EX 10", "$-1\r\n"),
        ("GETEX k PXAT 1", "$1\r\nv\r\n"),
        ("EXISTS k", ":0\r\n"),
        (
            "GETEX",
            "-ERR wrong number of arguments for 'getex' command\r\n",
        ),
    ])
    .await;
}

#[tokio::test]
async fn expiries_of_keys_that_are_there() {
    script(&[
        ("EXPIRE k 10", ":0\r\n"),
        ("SET k v", "+OK\r\n"),
        ("EXPIRE k 100", ":1\r\n"),
        ("TTL k", ":100\r\n"),
        ("EXPIRE k 200 NX", ":0\r\n"),
        ("EXPIRE k 200 XX", ":1\r\n"),
        ("TTL k", ":200\r\n"),
        ("EXPIRE k 100 GT", ":0\r\n"),
        ("EXPIRE k 300 GT", ":1\r\n"),
        ("EXPIRE k 400 LT", ":0\r\n"),
        ("EXPIRE k 200 lt", ":1\r\n"),
        ("EXPIRE k 300 XX GT", ":1\r\n"),
        ("EXPIRE k 100 XX LT", ":1\r\n"),
        ("TTL k", ":100\r\n"),
        ("PERSIST k", ":1\r\n"),
        ("PERSIST k", ":0\r\n"),
        ("PERSIST none", ":0\r\n"),
        ("EXPIRE k 100 XX", ":0\r\n"),
        ("EXPIRE k 100 GT", ":0\r\n"),
        ("EXPIRE k 100 XX LT", ":0\r\n"),
        ("TTL k", ":-1\r\n"),
        ("EXPIRE k 100 LT", ":1\r\n"),
        ("TTL k", ":100\r\n"),
        ("PEXPIRE k 100000", ":1\r\n"),
        ("EXPIREAT k 33177117420", ":1\r\n"),
        ("EXPIRETIME k", ":33177117420\r\n"),
        ("PEXPIREAT k 33177117420000", ":1\r\n"),
        ("PEXPIRETIME k", ":33177117420000\r\n"),
        ("GET k", "$1\r\nv\r\n"),
        (
            "EXPIRE k 100 NX XX",
            "-ERR NX and XX, GT or LT options at the same time are not compatible\r\n",
        ),
        (
            "EXPIRE k 100 NX GT",
            "-ERR NX and XX, GT or LT options at the same time are not compatible\r\n",
        ),
        (
            "EXPIRE k 100 NX LT",
            "-ERR NX and XX, GT or LT options at the same time are not compatible\r\n",
        ),
        (
            "EXPIRE k 100 GT LT",
            "-ERR GT and LT options at the same time are not compatible\r\n",
        ),
        (
            "EXPIRE k 100 XX GT LT",
            "-ERR GT and LT options at the same time are not compatible\r\n",
        ),
        ("EXPIRE k 100 FOO", "-ERR Unsupported option FOO\r\n"),
        ("EXPIRE k a FOO", "-ERR Unsupported option FOO\r\n"),
        (
            "EXPIRE k a",
            "-ERR value is not an integer or out of range\r\n",
        ),
        (
            "EXPIRE none a",
            "-ERR value is not an integer or out of range\r\n",
        ),
        (
            "EXPIRE k",
            "-ERR wrong number of arguments for 'expire' command\r\n",
        ),
        (
            "EXPIRE k 9223372036854775807",
            "-ERR invalid expire time in 'expire' command\r\n",
        ),
        (
            "EXPIRE k -9223372036854775807",
            "-ERR invalid expire time in 'expire' command\r\n",
        ),
        (
            "PEXPIRE k 9223372036854775807",
            "-ERR invalid expire time in 'pexpire' command\r\n",
        ),
        (
            "EXPIREAT k 9223372036854775807",
            "-ERR invalid expire time in 'expireat' command\r\n",
        ),
        ("PEXPIREAT k 9223372036854775807", ":1\r\n"),
        ("PERSIST k", ":1\r\n"),
        ("EXPIRE k -1 XX", ":0\r\n"),
        ("EXPIRE k -1", ":1\r\n"),
        ("EXISTS k", ":0\r\n"),
        ("SET k v", "+OK\r\n"),
        ("EXPIRE k 0", ":1\r\n"),
        ("EXISTS k", ":0\r\n"),
        ("SET k v", "+OK\r\n"),
        ("PEXPIREAT k 1", ":1\r\n"),
        ("EXISTS k", ":0\r\n"),
        ("SET k v", "+OK\r\n"),
        ("EXPIREAT k -5", ":1\r\n"),
        ("EXISTS k", ":0\r\n"),
        ("SET k 7 EX 100", "+OK\r\n"),
        ("INCR k", ":8\r\n"),
        ("TTL k", ":100\r\n"),
        (
            "PERSIST k j",
            "-ERR wrong number of arguments for 'persist' command\r\n",
        ),
    ])
    .await;
}

#[tokio::test]
async fn several_keys_at_once() {
    script(&[
        ("MSET {a}1 x {a}2 y", "+OK\r\n"),
        ("MGET {a}1 {a}2", "*2\r\n$1\r\nx\r\n$1\r\ny\r\n"),
        ("MSET {a}1 x {a}1 z", "+OK\r\n"),
        ("GET {a}1", "$1\r\nz\r\n"),
        (
            "MSET {a}1",
            "-ERR wrong number of arguments for 'mset' command\r\n",
        ),
        (
            "MSET {a}1 x {a}2",
            "-ERR wrong number of arguments for 'mset' command\r\n",
        ),
        ("MSETNX {a}3 1 {a}1 2", ":0\r\n"),
        ("EXISTS {a}3", ":0\r\n"),
        ("MSETNX {a}3 1 {a}4 2", ":1\r\n"),
        ("MSETNX {a}5 1 {a}5 2", ":1\r\n"),
        (
            "MGET {a}3 {a}4 {a}5",
            "*3\r\n$1\r\n1\r\n$1\r\n2\r\n$1\r\n2\r\n",
        ),
        (
            "MSETNX {a}3 1 {a}6",
            "-ERR wrong number of arguments for 'msetnx' command\r\n",
        ),
        ("SET {a}1 x EX 100", "+OK\r\n"),
        ("MSET {a}1 y", "+OK\r\n"),
        ("TTL {a}1", ":-1\r\n"),
        ("DEL {a}1 {a}2 {a}1 {a}none", ":2\r\n"),
        ("DEL {a}1", ":0\r\n"),
        ("UNLINK {a}3 {a}4", ":2\r\n"),
        (
            "MSET a 1 b 2",
            "-CROSSSLOT Keys in request don't hash to the same slot\r\n",
        ),
        (
            "MSETNX a 1 b 2",
            "-CROSSSLOT Keys in request don't hash to the same slot\r\n",
        ),
        (
            "DEL a b",
            "-CROSSSLOT Keys in request don't hash to the same slot\r\n",
        ),
    ])
    .await;
}

#[tokio::test]
async fn parts_of_values() {
    script(&[
        ("APPEND k ab", ":2\r\n"),
        ("APPEND k cd", ":4\r\n"),
        ("GET k", "$4\r\nabcd\r\n"),
        ("APPEND e ", ":0\r\n"),
        ("EXISTS e", ":1\r\n"),
        ("SET t 1 EX 100", "+OK\r\n"),
        ("APPEND t 2", ":2\r\n"),
        ("TTL t", ":100\r\n"),
        ("GET t", "$2\r\n12\r\n"),
        ("INCR t", ":13\r\n"),
        ("GETRANGE k 0 -1", "$4\r\nabcd\r\n"),
        ("GETRANGE k 1 2", "$2\r\nbc\r\n"),
        ("GETRANGE k -2 -1", "$2\r\ncd\r\n"),
        ("GETRANGE k -1 -2", "$0\r\n\r\n"),
        ("GETRANGE k 2 1", "$0\r\n\r\n"),
        ("GETRANGE k 0 100", "$4\r\nabcd\r\n"),
        ("GETRANGE k -100 1", "$2\r\nab\r\n"),
        ("GETRANGE k -100 -50", "$1\r\na\r\n"),
        ("GETRANGE k 4 9", "$0\r\n\r\n"),
        ("GETRANGE k 3 -9", "$0\r\n\r\n"),
        ("GETRANGE none 0 -1", "$0\r\n\r\n"),
        ("GETRANGE e 0 -1", "$0\r\n\r\n"),
        (
            "GETRANGE k a 1",
            "-ERR value is not an integer or out of range\r\n",
        ),
        ("GETRANGE k 0 9223372036854775807", "$4\r\nabcd\r\n"),
        ("GETRANGE k -9223372036854775808 0", "$1\r\na\r\n"),
        ("SETRANGE k 1 XY", ":4\r\n"),
        ("GET k", "$4\r\naXYd\r\n"),
        ("SETRANGE k 6 z", ":7\r\n"),
        ("STRLEN k", ":7\r\n"),
        ("SETRANGE k 0 ", ":7\r\n"),
        ("SETRANGE none 5 ", ":0\r\n"),
        ("EXISTS none", ":0\r\n"),
        ("SETRANGE k -1 z", "-ERR offset is out of range\r\n"),
        (
            "SETRANGE k a z",
            "-ERR value is not an integer or out of range\r\n",
        ),
        (
            "SETRANGE k 536870912 z",
            "-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n",
        ),
        (
            "SETRANGE k 9223372036854775807 z",
            "-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n",
        ),
        (
            "APPEND k",
            "-ERR wrong number of arguments for 'append' command\r\n",
        ),
        (
            "SETRANGE k 1",
            "-ERR wrong number of arguments for 'setrange' command\r\n",
        ),
        (
            "GETRANGE k 1",
            "-ERR wrong number of arguments for 'getrange' command\r\n",
        ),
    ])
    .await;
}

#[tokio::test]
async fn where_this_differs_from_redis() {
    script(&[
        // Redis looks for the key before it looks at the time.
        (
            "GETEX none EX 0",
            "-ERR invalid expire time in 'getex' command\r\n",
        ),
        // Values have at most 16 MiB here.
        (
            "SETRANGE k 16777216 z",
            "-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n",
        ),
        (
            "INCRBYFLOAT k 1",
            "-ERR unknown command 'INCRBYFLOAT', with args beginning with: 'k' '1' \r\n",
        ),
    ])
    .await;
}
