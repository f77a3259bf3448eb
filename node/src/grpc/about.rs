//! What a gRPC port says of itself: whether it serves (`grpc.health.v1`), and what it
//! serves (`grpc.reflection`, as `grpcurl` and its like ask for it).

use cairn_proto::DESCRIPTORS;
use tonic::service::RoutesBuilder;
use tonic_health::server::HealthReporter;
use tonic_reflection::server::Builder;

/// The service through which others are asked after.
const HEALTH: &str = "grpc.health.v1.Health";

/// Adds health and reflection to a port that offers `services`, by their full names. All
/// of them count as serving from the start: a port is served only once what is behind
/// it runs, and its connections end when it stops.
///
/// # Panics
/// Where the descriptors that were compiled in cannot be read: a test sees that first.
pub fn add_about(routes: &mut RoutesBuilder, services: &[&str]) {
    let (reporter, health) = tonic_health::server::health_reporter();
    announce(&reporter, services);
    let reflection = || {
        let builder = Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(HEALTH);
        services
            .iter()
            .fold(builder, |builder, name| builder.with_service_name(*name))
    };
    let sound = "descriptors that were compiled in";
    routes
        .add_service(health)
        .add_service(reflection().build_v1().expect(sound))
        .add_service(reflection().build_v1alpha().expect(sound));
}

fn announce(reporter: &HealthReporter, services: &[&str]) {
    for service in services {
        let told = reporter.set_service_status(service, tonic_health::ServingStatus::Serving);
        // Nobody else has the reporter yet, so that nothing is waited for.
        futures::executor::block_on(told);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arc_swap::ArcSwap;
    use cairn_client::transport::{Channel, Dialer};
    use cairn_proto::pb::kv::v1::{keyspace_server, topology_server};
    use tokio::net::TcpListener;
    use tokio_util::sync::CancellationToken;
    use tonic::Code;
    use tonic::service::Routes;
    use tonic_health::ServingStatus;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

    use super::super::fake::{map_of, plain_listener};
    use super::super::{MapFeed, ServeConfig, TopologyServer, serve};
    use super::*;

    /// A port that offers the map, and says that it offers scans as well.
    async fn port() -> Channel {
        let shutdown = CancellationToken::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("bound").to_string();
        let map = Arc::new(ArcSwap::from_pointee(map_of(1, Some(1), vec![])));
        let topology = TopologyServer::new(MapFeed::new(map), shutdown.clone());
        let mut routes = Routes::builder();
        routes.add_service(topology.into_server());
        add_about(
            &mut routes,
            &[topology_server::SERVICE_NAME, keyspace_server::SERVICE_NAME],
        );
        tokio::spawn(serve(
            listener,
            routes.routes(),
            ServeConfig::for_clients(),
            plain_listener(),
            shutdown,
        ));
        Dialer::default().dial(&address).await.expect("connect")
    }

    async fn reflect(channel: Channel, asked: MessageRequest) -> MessageResponse {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(asked),
        };
        let mut client = ServerReflectionClient::new(channel);
        let replies = client
            .server_reflection_info(futures::stream::iter([request]))
            .await
            .expect("it is offered");
        let reply: ServerReflectionResponse = replies
            .into_inner()
            .message()
            .await
            .expect("no error")
            .expect("an answer");
        reply.message_response.expect("it says something")
    }

    #[tokio::test]
    async fn reflection_lists_what_a_port_offers_and_describes_it() {
        let channel = port().await;
        let asked = MessageRequest::ListServices(String::new());
        let MessageResponse::ListServicesResponse(list) = reflect(channel.clone(), asked).await
        else {
            panic!("no list");
        };
        let mut names: Vec<String> = list.service.into_iter().map(|s| s.name).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "cairn.kv.v1.Keyspace",
                "cairn.kv.v1.Topology",
                "grpc.health.v1.Health"
            ]
        );
        for symbol in names {
            let asked = MessageRequest::FileContainingSymbol(symbol.clone());
            let described = reflect(channel.clone(), asked).await;
            assert!(
                matches!(described, MessageResponse::FileDescriptorResponse(_)),
                "{symbol}: {described:?}"
            );
        }
    }

    #[tokio::test]
    async fn health_tells_of_the_port_and_of_each_service() {
        let mut client = HealthClient::new(port().await);
        for service in ["", keyspace_server::SERVICE_NAME] {
            let request = HealthCheckRequest {
                service: service.to_owned(),
            };
            let reply = client.check(request).await.expect("it is offered");
            let status = reply.into_inner().status;
            assert_eq!(status, ServingStatus::Serving as i32, "{service}");
        }
        let request = HealthCheckRequest {
            service: "no.such.Service".to_owned(),
        };
        let refused = client.check(request).await.expect_err("it is not there");
        assert_eq!(refused.code(), Code::NotFound);
    }
}
