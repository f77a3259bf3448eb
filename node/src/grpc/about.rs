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
