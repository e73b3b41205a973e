//! Manifests of Kubernetes: a Deployment, StatefulSet, Job or CronJob for each app, with its Service, Secret and
//! HorizontalPodAutoscaler.

use std::time::Duration;

use crate::export::app::{ExportApp, ProbeTarget, Workload, size, whole_seconds};
use crate::export::target::{ExportOptions, ExportedFile, Target, header};
use crate::export::yaml::{Yaml, YamlMap};
use crate::spec::{Condition, Launcher, Overlap, Probe};

/// Interval of the probe that waits for the start.
const STARTUP_INTERVAL: Duration = Duration::from_secs(1);

/// One file with all manifests, in an order that `kubectl apply` can use.
pub(super) fn files(apps: &[ExportApp<'_>], options: &ExportOptions) -> Vec<ExportedFile> {
    let usage = [
        "Apply: kubectl apply -f kubernetes.yaml. Deployments are replaced pod by pod, without downtime.",
        "Commands and paths are relative to the working directory of each image.",
    ];
    let mut documents = Vec::new();
    for app in apps {
        documents.extend(secret(app, options));
        documents.extend(service(app));
        documents.push(workload(app, apps, options));
        documents.extend(autoscaler(app));
    }
    let documents: Vec<String> = documents.iter().map(YamlMap::to_text).collect();
    let text = header(Target::Kubernetes, &usage) + &documents.join("---\n");
    let is_secret = options.with_secrets && apps.iter().any(|app| !app.secrets.is_empty());
    vec![ExportedFile { name: "kubernetes.yaml".into(), text, is_secret }]
}

fn object(api_version: &str, kind: &str, name: &str, app: &ExportApp<'_>) -> YamlMap {
    let labels = YamlMap::new().set("app.kubernetes.io/name", app.slug.as_str());
    let labels = labels.set_some("app.kubernetes.io/part-of", app.namespace().map(label));
    YamlMap::new()
        .set("apiVersion", api_version)
        .set("kind", kind)
        .set("metadata", YamlMap::new().set("name", name).set("labels", labels))
}

/// A text as a label value: letters, digits and `-_.`, at most 63 characters.
fn label(text: &str) -> String {
    let plain = text.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' });
    let short: String = plain.take(63).collect();
    short.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

fn selector(app: &ExportApp<'_>) -> YamlMap {
    YamlMap::new().set("app.kubernetes.io/name", app.slug.as_str())
}

fn secret_name(app: &ExportApp<'_>) -> String {
    format!("{}-secrets", app.slug)
}

fn secret(app: &ExportApp<'_>, options: &ExportOptions) -> Option<YamlMap> {
    if app.secrets.is_empty() || !options.with_secrets {
        return None;
    }
    let data = app.secrets.iter().fold(YamlMap::new(), |data, (name, value)| data.set(name, value.as_str()));
    Some(object("v1", "Secret", &secret_name(app), app).set("type", "Opaque").set("stringData", data))
}

fn service(app: &ExportApp<'_>) -> Option<YamlMap> {
    let port = app.port().filter(|_| app.workload() == Workload::Service)?;
    let ports = vec![YamlMap::new().set("name", "http").set("port", port).set("targetPort", port)];
    let spec = YamlMap::new()
        .set("selector", selector(app))
        .set("ports", ports)
        .set_some("clusterIP", is_stateful(app).then_some("None"))
        .set_some("sessionAffinity", app.is_sticky().then_some("ClientIP"));
    Some(object("v1", "Service", &app.slug, app).set("spec", spec))
}

/// Whether the number of an instance matters: only the pods of a StatefulSet have one.
fn is_stateful(app: &ExportApp<'_>) -> bool {
    app.has_key("instance_var") && app.workload() == Workload::Service
}

fn workload(app: &ExportApp<'_>, apps: &[ExportApp<'_>], options: &ExportOptions) -> YamlMap {
    let replicas = if app.spec.autostart { app.replicas() } else { 0 };
    match app.workload() {
        Workload::Service if is_stateful(app) => {
            let spec = YamlMap::new()
                .set("serviceName", app.slug.as_str())
                .set("replicas", replicas)
                .set("selector", YamlMap::new().set("matchLabels", selector(app)))
                .set("template", template(app, apps, options, None));
            object("apps/v1", "StatefulSet", &app.slug, app).set("spec", spec)
        }
        Workload::Service => {
            let rolling = YamlMap::new().set("maxUnavailable", 0_u32).set("maxSurge", 1_u32);
            let strategy = YamlMap::new().set("type", "RollingUpdate").set("rollingUpdate", rolling);
            let spec = YamlMap::new()
                .set_some("replicas", app.spec.autoscale.is_none().then_some(replicas))
                .set_some(
                    "minReadySeconds",
                    app.has_key("min_uptime").then(|| whole_seconds(app.spec.restart.min_uptime)),
                )
                .set("strategy", strategy)
                .set("selector", YamlMap::new().set("matchLabels", selector(app)))
                .set("template", template(app, apps, options, None));
            object("apps/v1", "Deployment", &app.slug, app).set("spec", spec)
        }
        Workload::Job => object("batch/v1", "Job", &app.slug, app).set("spec", job(app, apps, options)),
        Workload::ScheduledJob => {
            let pattern = app.spec.cron_restart.as_deref().unwrap_or_default();
            let spec = YamlMap::new()
                .comments(schedule_remark(pattern))
                .set("schedule", five_fields(pattern))
                .set_some("timeZone", app.spec.timezone.as_deref())
                .set(
                    "concurrencyPolicy",
                    if app.spec.overlap == Overlap::Replace { "Replace" } else { "Forbid" },
                )
                .set_some("suspend", (!app.spec.autostart).then_some(true))
                .set("jobTemplate", YamlMap::new().set("spec", job(app, apps, options)));
            object("batch/v1", "CronJob", &app.slug, app).set("spec", spec)
        }
    }
}

/// A cron pattern without its seconds.
fn five_fields(pattern: &str) -> String {
    let fields: Vec<&str> = pattern.split_whitespace().collect();
    if fields.len() == 6 { fields[1..].join(" ") } else { fields.join(" ") }
}

fn schedule_remark(pattern: &str) -> Option<String> {
    (pattern.split_whitespace().count() == 6)
        .then(|| format!("Without the seconds of the schedule {pattern}."))
}

fn job(app: &ExportApp<'_>, apps: &[ExportApp<'_>], options: &ExportOptions) -> YamlMap {
    YamlMap::new().set("backoffLimit", 0_u32).set("template", template(app, apps, options, Some("Never")))
}

fn template(
    app: &ExportApp<'_>,
    apps: &[ExportApp<'_>],
    options: &ExportOptions,
    restart: Option<&str>,
) -> YamlMap {
    let grace = app.grace_period().map(whole_seconds);
    let stop_signal = app.has_key("kill_signal") && app.stop_signal().is_some();
    let spec = YamlMap::new()
        .comments(&app.remarks)
        .set_some("os", stop_signal.then(|| YamlMap::new().set("name", "linux")))
        .set_some("restartPolicy", restart)
        .set_some("terminationGracePeriodSeconds", grace)
        .set_some("securityContext", security(app))
        .set("initContainers", wait_for_dependencies(app, apps, options))
        .set("containers", vec![container(app, options, stop_signal)]);
    YamlMap::new().set("metadata", YamlMap::new().set("labels", selector(app))).set("spec", spec)
}

fn security(app: &ExportApp<'_>) -> Option<YamlMap> {
    let account = app.spec.account.as_ref()?;
    Some(YamlMap::new().set("runAsUser", account.uid).set("runAsGroup", account.gid))
}

/// Containers that run the jobs among the dependencies, and wait for the ports of the services.
fn wait_for_dependencies(
    app: &ExportApp<'_>,
    apps: &[ExportApp<'_>],
    options: &ExportOptions,
) -> Vec<YamlMap> {
    let wait = |(other, _): (&ExportApp<'_>, Condition)| {
        if other.workload() == Workload::Job {
            return Some(container(other, options, false));
        }
        let line = format!("until nc -z {} {}; do sleep 1; done", other.slug, other.port()?);
        Some(
            YamlMap::new()
                .set("name", format!("wait-for-{}", other.slug))
                .set("image", "busybox")
                .set("command", Yaml::texts(["sh", "-c", &line])),
        )
    };
    app.dependencies(apps).into_iter().filter_map(wait).collect()
}

fn container(app: &ExportApp<'_>, options: &ExportOptions, stop_signal: bool) -> YamlMap {
    let (program, args) = split_command(app);
    let container = YamlMap::new().set("name", app.slug.as_str());
    let container = match &app.image {
        Some(image) => container.set("image", image.as_str()),
        None => container
            .comments(["No image is set (`image`, --image): replace this name."])
            .set("image", format!("{}:latest", app.slug)),
    };
    let health = app
        .spec
        .health
        .as_ref()
        .and_then(|probe| Some(probe_of(app, probe)?.set("failureThreshold", probe.retries.max(1))));
    let ready = app.spec.readiness.probe.as_ref().and_then(|probe| probe_of(app, probe));
    container
        .set("command", Yaml::texts(program.iter().map(|word| literal(word))))
        .set("args", Yaml::texts(args.iter().map(|word| literal(word))))
        .set(
            "ports",
            app.port().map(|port| YamlMap::new().set("containerPort", port)).into_iter().collect::<Vec<_>>(),
        )
        .comments(secrets_remark(app, options))
        .set("env", variables(app))
        .set_some("readinessProbe", ready)
        .set_some("livenessProbe", health)
        .set_some("startupProbe", startup(app))
        .set("resources", resources(app))
        .set_some(
            "lifecycle",
            stop_signal.then(|| YamlMap::new().set("stopSignal", app.spec.stop.signal.as_str())),
        )
}

/// The program with its interpreter, and the arguments.
fn split_command(app: &ExportApp<'_>) -> (Vec<String>, Vec<String>) {
    let words = app.image_command();
    let program = match &app.spec.launcher {
        Launcher::Direct => 1,
        Launcher::Interpreter { args, .. } => args.len() + 2,
        Launcher::Shell => 3,
        Launcher::Serve => 2,
    };
    let at = program.min(words.len());
    (words[..at].to_vec(), words[at..].to_vec())
}

/// A text in which `$(NAME)` is not a variable of Kubernetes.
fn literal(text: &str) -> String {
    text.replace("$(", "$$(")
}

fn secrets_remark(app: &ExportApp<'_>, options: &ExportOptions) -> Option<String> {
    (!app.secrets.is_empty() && !options.with_secrets).then(|| {
        let literals: Vec<String> =
            app.secrets.keys().map(|name| format!("--from-literal={name}=…")).collect();
        format!(
            "Create the secret first: kubectl create secret generic {} {}",
            secret_name(app),
            literals.join(" ")
        )
    })
}

fn variables(app: &ExportApp<'_>) -> Vec<YamlMap> {
    let plain = app.env.iter().map(|(name, value)| {
        YamlMap::new().set("name", name.as_str()).set("value", Yaml::text(literal(value)))
    });
    let number = is_stateful(app).then(|| {
        let field = YamlMap::new().set("fieldPath", "metadata.labels['apps.kubernetes.io/pod-index']");
        let source = YamlMap::new().set("fieldRef", field);
        YamlMap::new().set("name", app.spec.instance_var.as_str()).set("valueFrom", source)
    });
    let secret = app.secrets.keys().map(|name| {
        let key = YamlMap::new().set("name", secret_name(app)).set("key", name.as_str());
        YamlMap::new().set("name", name.as_str()).set("valueFrom", YamlMap::new().set("secretKeyRef", key))
    });
    plain.chain(number).chain(secret).collect()
}

fn probe_of(app: &ExportApp<'_>, probe: &Probe) -> Option<YamlMap> {
    Some(
        action(app, probe)?
            .set_some(
                "initialDelaySeconds",
                (!probe.start_period.is_zero()).then(|| whole_seconds(probe.start_period)),
            )
            .set("periodSeconds", whole_seconds(probe.interval))
            .set("timeoutSeconds", whole_seconds(probe.timeout)),
    )
}

fn action(app: &ExportApp<'_>, probe: &Probe) -> Option<YamlMap> {
    Some(match app.probe_target(probe)? {
        ProbeTarget::Http { port, path } => {
            YamlMap::new().set("httpGet", YamlMap::new().set("path", path).set("port", port))
        }
        ProbeTarget::Tcp { port } => YamlMap::new().set("tcpSocket", YamlMap::new().set("port", port)),
        ProbeTarget::Exec(line) => YamlMap::new()
            .set("exec", YamlMap::new().set("command", Yaml::texts(["sh", "-c", &literal(&line)]))),
    })
}

/// The time an app may take to become ready, during which its health is not checked.
fn startup(app: &ExportApp<'_>) -> Option<YamlMap> {
    let probe = app.spec.readiness.probe.as_ref().filter(|_| app.has_key("listen_timeout"))?;
    let tries = app.spec.readiness.timeout.as_millis().div_ceil(STARTUP_INTERVAL.as_millis());
    let tries = u64::try_from(tries).unwrap_or(u64::MAX).max(1);
    Some(
        action(app, probe)?
            .set("periodSeconds", whole_seconds(STARTUP_INTERVAL))
            .set("failureThreshold", tries),
    )
}

fn resources(app: &ExportApp<'_>) -> YamlMap {
    let limits = YamlMap::new()
        .set_some("cpu", app.spec.limits.cpu.map(|percent| format!("{}m", u64::from(percent) * 10)))
        .set_some("memory", app.memory_limit().map(memory));
    YamlMap::new().set("limits", limits)
}

fn memory(bytes: u64) -> String {
    let (number, unit) = size(bytes);
    if unit.is_empty() { number.to_string() } else { format!("{number}{unit}i") }
}

fn autoscaler(app: &ExportApp<'_>) -> Option<YamlMap> {
    let scale = app.spec.autoscale.as_ref().filter(|_| app.workload() == Workload::Service)?;
    let kind = if is_stateful(app) { "StatefulSet" } else { "Deployment" };
    let target = YamlMap::new().set("apiVersion", "apps/v1").set("kind", kind).set("name", app.slug.as_str());
    let cpu = YamlMap::new()
        .set("type", "AverageValue")
        .set("averageValue", format!("{}m", u64::from(scale.cpu) * 10));
    let resource = YamlMap::new().set("name", "cpu").set("target", cpu);
    let metrics = vec![YamlMap::new().set("type", "Resource").set("resource", resource)];
    let window = |time: Duration| YamlMap::new().set("stabilizationWindowSeconds", whole_seconds(time));
    let behavior =
        YamlMap::new().set("scaleUp", window(scale.up_after)).set("scaleDown", window(scale.down_after));
    let spec = YamlMap::new()
        .set("scaleTargetRef", target)
        .set("minReplicas", scale.min.max(1))
        .set("maxReplicas", scale.max)
        .set("metrics", metrics)
        .set("behavior", behavior);
    Some(object("autoscaling/v2", "HorizontalPodAutoscaler", &app.slug, app).set("spec", spec))
}
