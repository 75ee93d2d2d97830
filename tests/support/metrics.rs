//! What a process counts, as Prometheus reads it.

/// The value of a series, such as `cartulary_saga_alarms_total{kind="undo_refused"}`; none, if nobody has set it.
pub async fn metric(admin: &str, series: &str) -> Option<u64> {
    let answer = reqwest::get(format!("{admin}/metrics")).await.expect("an answer");
    let text = answer.error_for_status().expect("metrics").text().await.expect("text");
    let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.map(|value| value.parse().expect("a whole number"))
}

/// How often somebody had to be told of something of this kind.
pub async fn alarms(admin: &str, kind: &str) -> u64 {
    metric(admin, &format!("cartulary_saga_alarms_total{{kind=\"{kind}\"}}")).await.unwrap_or_default()
}

/// How many differences of this kind were found between the provider's books and the log.
pub async fn differences(admin: &str, provider: &str, kind: &str) -> u64 {
    let series = format!("cartulary_payment_differences_total{{provider=\"{provider}\",kind=\"{kind}\"}}");
    metric(admin, &series).await.unwrap_or_default()
}
