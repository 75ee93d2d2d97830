//! Read models as people read them.

use projections::status::ReadModelStatus;
use projections::verify::Comparison;

/// A line for each read model, under a line of headings.
pub fn table(models: &[ReadModelStatus]) -> String {
    let headings =
        ["READ MODEL", "STATE", "PHASE", "POSITION", "LAG", "BEHIND", "LANES", "SET ASIDE", "NOTE"];
    let mut rows = vec![headings.map(str::to_owned)];
    for model in models {
        let held = model.lanes.iter().filter(|lane| lane.holder.is_some()).count();
        let mut holders: Vec<&str> = model.lanes.iter().filter_map(|lane| lane.holder.as_deref()).collect();
        holders.sort_unstable();
        holders.dedup();
        let mut note = match (&model.note, model.kept_until, model.events_per_s) {
            (Some(note), ..) => note.clone(),
            (None, Some(until), _) => format!("kept until {}", until.format("%Y-%m-%d %H:%M")),
            (None, None, Some(_)) => pace(model),
            (None, None, None) => String::new(),
        };
        if !model.newer_events.is_empty() {
            note = format!("{note} (knows only a part of {})", model.newer_events.join(", "));
        }
        rows.push([
            model.schema.clone(),
            model.state.clone(),
            model.phase.clone(),
            format!("{} of {}", model.position, model.log_position),
            model.lag.to_string(),
            format!("{:.1} s", model.lag_s),
            format!("{held}/{} {}", model.lanes.len(), holders.join(" ")),
            model.set_aside.to_string(),
            note,
        ]);
    }
    aligned(&rows)
}

/// Events per second, and how long it will take.
pub fn pace(model: &ReadModelStatus) -> String {
    let rate = model.events_per_s.map_or_else(String::new, |rate| format!("{rate:.0} events/s"));
    match model.eta_s {
        Some(eta) if model.lag > 0 => format!("{}, {rate}, {eta:.0} s to go", model.phase),
        _ => format!("{}, {rate}", model.phase),
    }
}

/// What a comparison found, table by table, and the first rows that differ.
pub fn comparison(comparison: &Comparison) -> String {
    let headings = ["TABLE", "LIVE ROWS", "REBUILT ROWS", "DIFFERENT"];
    let mut rows = vec![headings.map(str::to_owned)];
    for table in &comparison.tables {
        let counts = [table.live.rows, table.rebuilt.rows, table.differences].map(|count| count.to_string());
        let [live, rebuilt, differences] = counts;
        rows.push([table.table.clone(), live, rebuilt, differences]);
    }
    let mut text = aligned(&rows);
    for table in &comparison.tables {
        for difference in &table.first {
            let row = |row: &Option<String>| row.clone().unwrap_or_else(|| "(no such row)".to_owned());
            text += &format!(
                "\n{} {}\n  live    {}\n  rebuilt {}",
                table.table,
                difference.key,
                row(&difference.live),
                row(&difference.rebuilt)
            );
        }
    }
    let verdict = if comparison.is_equal() { "the same" } else { "NOT the same" };
    format!("{text}\nAt position {}, the rows are {verdict}.", comparison.position)
}

pub fn aligned<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
