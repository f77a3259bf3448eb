//! What a data node serves to clients: Redis and gRPC, each on a port for those on the nodes'
//! network and, where there is one, on another for those that are not.

use std::sync::Arc;

use cairn_proto::pb::kv::v1::{keyspace_server, kv_server, topology_server};
use tonic::service::Routes;

use super::{Access, CONNECTIONS_DRAIN_MAX, listener_config, redis};
use crate::counters::{Counted, Counters};
use crate::diagnosis;
use crate::grpc::{
    self, IntakeConfig, KeyspaceServer, KvLimits, KvServer, MapFeed, ServeConfig, TopologyServer,
};
use crate::hot_keys;
use crate::listener::Accept;
use crate::near;
use crate::resp::{self, RespConfig};
use crate::settings::DataSettings;
use crate::side::Side;
use crate::tasks::Servers;

/// The services on the port for clients.
const CLIENT_SERVICES: [&str; 6] = [
    kv_server::SERVICE_NAME,
    keyspace_server::SERVICE_NAME,
    topology_server::SERVICE_NAME,
    diagnosis::SERVICE,
    hot_keys::SERVICE,
    near::SERVICE,
];

/// Serves gRPC clients, those from outside on the second port.
pub(super) fn serve_grpc<L: Accept>(
    clients: &mut Servers,
    settings: &DataSettings,
    access: &Access,
    (port, outside): (L, Option<L>),
    counters: &Counters,
    feed: &MapFeed,
) {
    let ports = [
        (Some(port), Side::Inside, "client"),
        (outside, Side::Outside, "client-outside"),
    ];
    for (port, side, name) in ports {
        let Some(port) = port else { continue };
        clients.run(
            "serve gRPC clients",
            grpc::serve(
                port,
                routes(settings, side, counters, feed, clients),
                client_config(settings, access),
                listener_config(
                    name,
                    settings.max_connections,
                    settings.process.drain_timeout,
                    access.tls.grpc_server(),
                )
                .within(settings.handshake_timeout),
                clients.token(),
            ),
        );
    }
}

fn routes(
    settings: &DataSettings,
    side: Side,
    counters: &Counters,
    feed: &MapFeed,
    clients: &Servers,
) -> Routes {
    let handle = counters.handle();
    let limits = KvLimits {
        key_bytes_max: settings.max_key_bytes,
        value_bytes_max: settings.max_value_bytes,
        ..KvLimits::default()
    };
    let kv = KvServer::new(Counted::new(counters.clone()), limits, clients.token()).on(side);
    let keyspace = KeyspaceServer::new(handle.clone(), clients.token()).on(side);
    let topology = TopologyServer::new(feed.clone(), clients.token()).on(side);
    let mut routes = Routes::builder();
    routes
        .add_service(kv.into_server())
        .add_service(keyspace.into_server())
        .add_service(topology.into_server())
        .add_service(diagnosis::service("client"))
        .add_service(hot_keys::service(handle.clone(), "client"))
        .add_service(near::service(counters.clone(), clients.token()));
    grpc::add_about(&mut routes, &CLIENT_SERVICES);
    routes.routes()
}

fn client_config(settings: &DataSettings, access: &Access) -> ServeConfig {
    let config = ServeConfig::for_clients();
    // A write that waits for its quorum for as long as it may is answered.
    let longest = settings.request_timeout * 2;
    ServeConfig {
        call_timeout: config.call_timeout.map(|within| within.max(longest)),
        users: access.users.clone(),
        intake: Some(IntakeConfig {
            room: access.room.clone(),
            stall_timeout: settings.stall_timeout,
            ..IntakeConfig::default()
        }),
        ..config
    }
}

/// Serves Redis clients, those from outside on the second port.
pub(super) fn serve_resp<L: Accept>(
    clients: &mut Servers,
    settings: &DataSettings,
    access: &Access,
    (port, outside): (L, Option<L>),
    redis: redis::Redis,
) {
    let defaults = RespConfig::default();
    let config = RespConfig {
        connections_max: settings.max_connections,
        limits: resp::Limits {
            key_bytes: settings.max_key_bytes,
            value_bytes: settings.max_value_bytes,
            arguments: settings.max_arguments,
            request_bytes: settings.max_command_bytes,
            output_bytes: settings.output_buffer_bytes,
            ..defaults.limits
        },
        room: access.room.clone(),
        idle_timeout: settings.idle_timeout,
        stall_timeout: settings.stall_timeout,
        handshake_timeout: settings.handshake_timeout,
        endpoint_type: settings.endpoint_type,
        // Some clients give up after two seconds, which is how long others wait.
        failover_hold: defaults.failover_hold.min(settings.request_timeout),
        drain_timeout: settings.process.drain_timeout.min(CONNECTIONS_DRAIN_MAX),
        tls: access.tls.plain_server(),
        users: access.users.clone(),
        ..defaults
    };
    let map = Arc::clone(redis.handle.shared_map());
    clients.run(
        "serve Redis clients",
        resp::serve(port, outside, Arc::new(redis), map, config, clients.token()),
    );
}
