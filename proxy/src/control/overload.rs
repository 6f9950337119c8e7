//! How many downstream connections the whole process takes: the bootstrap's overload manager, or the
//! runtime value that says it in the old way. Source: Envoy, "Overload manager".

use ithildin_proto::{
    pb::{
        envoy::{
            config::{
                bootstrap::v3::Bootstrap,
                overload::v3::{OverloadManager, ResourceMonitor, resource_monitor::ConfigType},
            },
            extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig,
        },
        google::protobuf::value::Kind,
    },
    unpack,
};

use super::{
    report::{At, ConfigErrors, Report, no_effect, refuse},
    runtime_values,
};

/// What Istio sets where nobody wants a bound: none is meant.
const UNBOUNDED: u64 = i32::MAX as u64;

const RUNTIME_KEY: &str = "overload.global_downstream_max_connections";

/// The most downstream connections at one time, if the bootstrap says so. The monitor goes before
/// the runtime value.
///
/// # Errors
/// What of the overload manager we do not have.
pub(crate) fn max_connections(bootstrap: &Bootstrap) -> Result<Option<u64>, ConfigErrors> {
    let report = Report::default();
    let monitored = bootstrap
        .overload_manager
        .as_ref()
        .and_then(|config| monitored(config, &report.root("overload_manager")));
    let limit = monitored.or_else(|| by_runtime(bootstrap));
    report.finish(Some(limit.filter(|limit| *limit < UNBOUNDED)))
}

fn monitored(config: &OverloadManager, at: &At<'_>) -> Option<u64> {
    let OverloadManager {
        refresh_interval,
        resource_monitors,
        actions,
        loadshed_points,
        buffer_factory_config,
    } = config;
    // We look at each connection.
    no_effect!(refresh_interval);
    refuse!(at; actions, loadshed_points, buffer_factory_config);
    let mut limit = None;
    for (i, config) in resource_monitors.iter().enumerate() {
        limit = monitor(config, &at.index("resource_monitors", i)).or(limit);
    }
    limit
}

fn monitor(config: &ResourceMonitor, at: &At<'_>) -> Option<u64> {
    let at = &at.field("typed_config");
    let Some(ConfigType::TypedConfig(config)) = &config.config_type else {
        at.error("is missing");
        return None;
    };
    let config: DownstreamConnectionsConfig = match unpack(config) {
        Ok(config) => config,
        Err(error) => {
            at.error(format_args!(
                "only the number of downstream connections is monitored: {error}"
            ));
            return None;
        }
    };
    let limit = u64::try_from(config.max_active_downstream_connections).unwrap_or(0);
    if limit == 0 {
        at.field("max_active_downstream_connections")
            .error("must be greater than 0");
    }
    Some(limit)
}

fn by_runtime(bootstrap: &Bootstrap) -> Option<u64> {
    match &runtime_values::value(bootstrap, RUNTIME_KEY)?.kind {
        // What is no whole number does not come out as one.
        Some(Kind::NumberValue(number)) => number.to_string().parse().ok(),
        Some(Kind::StringValue(text)) => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ithildin_proto::from_yaml;

    use super::*;

    fn limit(bootstrap: &str) -> Result<Option<u64>, String> {
        let bootstrap = from_yaml(bootstrap).unwrap();
        max_connections(&bootstrap).map_err(|errors| errors.to_string())
    }

    fn monitor(limit: &str) -> String {
        format!(
            "overload_manager:\n  refresh_interval: 0.25s\n  resource_monitors:\n  \
             - name: envoy.resource_monitors.global_downstream_max_connections\n    typed_config:\n      \
             '@type': type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig\n      \
             max_active_downstream_connections: {limit}\n"
        )
    }

    #[test]
    fn the_monitor_goes_before_the_runtime_value() {
        let runtime = |layer: &str| {
            format!("layered_runtime: {{layers: [{{name: a, static_layer: {layer}}}]}}\n")
        };
        let dotted = runtime("{overload.global_downstream_max_connections: 100}");
        assert_eq!(limit("{}"), Ok(None));
        assert_eq!(limit(&dotted), Ok(Some(100)));
        let nested = runtime("{overload: {global_downstream_max_connections: '200'}}");
        assert_eq!(limit(&nested), Ok(Some(200)));
        assert_eq!(limit(&monitor("300")), Ok(Some(300)));
        assert_eq!(limit(&(dotted + &monitor("300"))), Ok(Some(300)));
        assert_eq!(limit(&monitor("2147483647")), Ok(None), "as Istio has it");
    }

    #[test]
    fn what_we_do_not_have_is_refused_with_its_place() {
        let place = "overload_manager.resource_monitors[0].typed_config";
        let error = limit(&monitor("0")).unwrap_err();
        assert!(error.starts_with(&format!("{place}.max_active")), "{error}");
        let heap = "overload_manager: {resource_monitors: [{name: heap, typed_config: {'@type': \
                    type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig}}]}";
        let error = limit(heap).unwrap_err();
        assert!(error.starts_with(place), "{error}");
        let action =
            limit("overload_manager: {actions: [{name: envoy.overload_actions.shrink_heap}]}");
        let error = action.unwrap_err();
        assert!(error.starts_with("overload_manager.actions"), "{error}");
    }
}
