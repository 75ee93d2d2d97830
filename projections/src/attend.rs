//! What becomes of read models by and by: builds are indexed, compared and switched in, and what nobody
//! needs any more is dropped.

use std::time::Duration;

use infra::read_models::{self, ReadModel, schema};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::builds::{Builds, Decided, Error, index, lock};
use crate::projection::Projection;
use crate::verify;

/// Commits behind the end of the log at which the inserting is over and the indexes are made.
const NEARLY_THERE: u64 = 5_000;

/// Commits behind the live one at which a build takes its place.
const NEAR: u64 = 1_000;

/// Queries that were begun on a retired read model have ended after this time.
const RETIRED_FOR_S: f64 = 10.0;

/// How a build's note begins that waits because of what it has set aside.
const SET_ASIDE: &str = "has set aside";

const ATTEND_INTERVAL: Duration = Duration::from_millis(250);

/// The same while something is being built.
const BUILDING_INTERVAL: Duration = Duration::from_millis(50);

impl Builds {
    /// Brings builds forward, and drops what nobody needs any more. Runs until it's dropped.
    pub async fn attend(&self) {
        loop {
            let is_building = read_models::all(self.pool()).await.is_ok_and(|models| {
                models.iter().any(|model| model.state == "building" || model.state == "verifying")
            });
            let pause = if is_building { BUILDING_INTERVAL } else { ATTEND_INTERVAL };
            tokio::time::sleep(pause).await;
            for projection in self.projections().iter() {
                let name = projection.name();
                if let Err(error) = self.attend_to(projection.as_ref()).await {
                    tracing::warn!(projection = name, %error, "its read models are looked after again in a moment");
                }
                // Somebody may look at an old one still, which is to hold up nothing else.
                if let Err(error) = self.drop_retired(name).await {
                    tracing::warn!(projection = name, %error, "a retired read model is dropped later");
                }
            }
        }
    }

    async fn attend_to(&self, projection: &dyn Projection) -> Result<(), Error> {
        let name = projection.name();
        let models = read_models::all(self.pool()).await?;
        let ours = || models.iter().filter(|model| model.projection == name);
        if let Some(live) = ours().find(|model| model.state == "live" && model.code == projection.version()) {
            self.show_live(projection, live).await?;
            for build in ours().filter(|model| model.code == live.code && model.state == "verifying") {
                self.bring_forward(projection, build, live).await?;
            }
        }
        let live = ours().find(|model| model.state == "live");
        let build = ours().find(|model| model.state == "building" && model.code == projection.version());
        match (live, build) {
            (Some(live), Some(build)) => self.bring_forward(projection, build, live).await,
            _ => Ok(()),
        }
    }

    async fn bring_forward(
        &self,
        projection: &dyn Projection,
        build: &ReadModel,
        live: &ReadModel,
    ) -> Result<(), Error> {
        let end = self.log().end().await?;
        if build.position.0 + NEARLY_THERE < end {
            return Ok(());
        }
        let mut transaction = self.pool().begin().await?;
        // Who is paused here must not keep its locks, nor wait for others' for long.
        let limits = "set local idle_in_transaction_session_timeout = '10s'; set local lock_timeout = '5s'";
        sqlx::raw_sql(limits).execute(&mut *transaction).await?;
        // Whoever else looks after it at this moment does the same.
        let state: Option<(bool, bool, Option<String>)> = sqlx::query_as(
            "select indexed_at is not null, verify, note from cartulary.read_models
             where projection = $1 and version = $2 and state = $3 for update skip locked",
        )
        .bind(&build.projection)
        .bind(build.version)
        .bind(&build.state)
        .fetch_optional(&mut *transaction)
        .await?;
        let Some((is_indexed, verify, note)) = state else { return Ok(()) };
        if !is_indexed {
            index(projection, build.version, &mut transaction).await?;
            // What follows waits for its lanes, and they for the indexes.
            transaction.commit().await?;
            return Box::pin(self.bring_forward(projection, build, live)).await;
        }
        let is_verification = build.state == "verifying";
        let note = match is_verification {
            true => note,
            false => wait_for_dead_letters(build, live, note, &mut transaction).await?,
        };
        if note.as_deref().is_some_and(|note| note.starts_with(SET_ASIDE)) {
            return Ok(transaction.commit().await?);
        }
        if verify && note.is_none() {
            // A comparison of large tables takes its time.
            let limit = "set local idle_in_transaction_session_timeout = '1h'";
            sqlx::raw_sql(limit).execute(&mut *transaction).await?;
            let Some(comparison) = verify::compare(projection, build, live, self.pool()).await? else {
                return Ok(());
            };
            verify::record(&comparison, build, live, &mut transaction).await?;
            if is_verification {
                retire(build, &mut transaction).await?;
            }
            let differs = !comparison.is_equal();
            transaction.commit().await?;
            if differs || is_verification {
                return Ok(());
            }
        } else {
            transaction.commit().await?;
            if note.is_some_and(|note| note != verify::EQUAL) {
                // It waits for an operator's decision.
                return Ok(());
            }
        }
        self.switch_when_near(build, live).await
    }

    /// Switches, if that has a chance: the live one is stopped while it waits for the build.
    async fn switch_when_near(&self, build: &ReadModel, live: &ReadModel) -> Result<(), Error> {
        let models = read_models::all(self.pool()).await?;
        let position = |wanted: &ReadModel| {
            let mut models = models.iter();
            models.find(|model| model.schema() == wanted.schema()).map_or(0, |model| model.position.0)
        };
        if position(build) + NEAR < position(live) || !self.may_try_to_switch(&build.projection) {
            return Ok(());
        }
        let switched = self.switch(&build.projection, build.version, Decided::ByItself).await?;
        if !switched {
            self.switched_in_vain(&build.projection);
        }
        Ok(())
    }

    /// Lets the views follow the live read model; in a transaction of its own, because a query by
    /// hand may hold a view for long.
    async fn show_live(&self, projection: &dyn Projection, live: &ReadModel) -> Result<(), Error> {
        let shown: Option<String> =
            sqlx::query_scalar("select obj_description(to_regnamespace($1), 'pg_namespace')")
                .bind(&live.projection)
                .fetch_one(self.pool())
                .await?;
        if shown.is_some_and(|shown| shown.ends_with(&format!("shows {}", live.schema()))) {
            return Ok(());
        }
        let mut transaction = self.pool().begin().await?;
        sqlx::raw_sql("set local lock_timeout = '500ms'").execute(&mut *transaction).await?;
        lock(&live.projection, &mut transaction).await?;
        show(projection, live.version, &mut transaction).await?;
        Ok(transaction.commit().await?)
    }

    async fn drop_retired(&self, name: &str) -> Result<(), Error> {
        let mut connection = self.pool().acquire().await?;
        sqlx::query(
            "update cartulary.read_models set state = 'retired', state_since = clock_timestamp()
             where projection = $1 and state = 'standby'
               and state_since + make_interval(secs => keep_s) < statement_timestamp()",
        )
        .bind(name)
        .execute(&mut *connection)
        .await?;
        let mut transaction = connection.begin().await?;
        let versions: Vec<i32> = sqlx::query_scalar(
            "select version from cartulary.read_models
             where projection = $1 and state = 'retired'
               and state_since < statement_timestamp() - make_interval(secs => $2) for update skip locked",
        )
        .bind(name)
        .bind(RETIRED_FOR_S)
        .fetch_all(&mut *transaction)
        .await?;
        for version in versions {
            let schema = schema(name, version);
            let gone = format!(
                "set local lock_timeout = '2s'; drop schema if exists {schema} cascade;
                 delete from cartulary.lanes where reader = '{schema}';
                 delete from cartulary.parked where reader = '{schema}';
                 delete from cartulary.dead_letters where reader = '{schema}';
                 delete from cartulary.newer_events where reader = '{schema}';
                 delete from cartulary.read_models where projection = '{name}' and version = {version}"
            );
            sqlx::raw_sql(AssertSqlSafe(gone)).execute(&mut *transaction).await?;
        }
        Ok(transaction.commit().await?)
    }
}

/// A build that has set aside what the live one has not is not as good as that: it waits until they are
/// tried again, or until an operator switches to it all the same. Returns what its note is then.
async fn wait_for_dead_letters(
    build: &ReadModel,
    live: &ReadModel,
    note: Option<String>,
    transaction: &mut PgConnection,
) -> Result<Option<String>, sqlx::Error> {
    let more = more_set_aside(&build.schema(), &live.schema(), transaction).await?;
    let new = match (more, note) {
        (0, Some(note)) if note.starts_with(SET_ASIDE) => None,
        (0, note) => return Ok(note),
        (more, _) => Some(format!("{SET_ASIDE} {more} more than {}", live.schema())),
    };
    sqlx::query("update cartulary.read_models set note = $3 where projection = $1 and version = $2")
        .bind(&build.projection)
        .bind(build.version)
        .bind(&new)
        .execute(transaction)
        .await?;
    Ok(new)
}

/// How much one reader has set aside that another has not.
pub(crate) async fn more_set_aside(
    reader: &str,
    than: &str,
    connection: &mut PgConnection,
) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select count(*) from cartulary.parked as p where reader = $1 and not exists (
             select from cartulary.parked as q where q.reader = $2 and q.key = p.key)",
    )
    .bind(reader)
    .bind(than)
    .fetch_one(connection)
    .await
}

/// Shows the read model to whoever looks by hand, as views in the schema of the projection's name.
pub(crate) async fn show(
    projection: &dyn Projection,
    version: i32,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    let (name, schema) = (projection.name(), schema(projection.name(), version));
    let view =
        |(table, _): &(&str, &str)| format!("create view {name}.{table} as select * from {schema}.{table};");
    let views: String = projection.tables().iter().map(view).collect();
    let shown = format!(
        "drop schema if exists {name} cascade; create schema {name}; {views}
         comment on schema {name} is 'shows {schema}'"
    );
    sqlx::raw_sql(AssertSqlSafe(shown)).execute(connection).await?;
    Ok(())
}

async fn retire(build: &ReadModel, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update cartulary.read_models set state = 'retired', state_since = clock_timestamp()
         where projection = $1 and version = $2",
    )
    .bind(&build.projection)
    .bind(build.version)
    .execute(connection)
    .await?;
    Ok(())
}
