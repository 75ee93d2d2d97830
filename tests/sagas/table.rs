//! The table of sagas that are under way: what is over leaves it, and a change of stage stays on its page.

use sqlx::PgPool;
use uuid::Uuid;

use super::world::World;
use crate::support::eventually;

/// The table as earlier builds made it.
const EARLIER: &str = "alter table cartulary.sagas drop column over_since;
     create index sagas_over on cartulary.sagas (since) where is_over";

async fn insert(stage: &str, is_over: bool, since_s: f64, pool: &PgPool) -> Uuid {
    let id = Uuid::now_v7();
    sqlx::query(
        "insert into cartulary.sagas (saga, id, partition, version, stage, is_over, since)
         values ('checkout', $1, 0, 1, $2, $3, clock_timestamp() - make_interval(secs => $4))",
    )
    .bind(id)
    .bind(stage)
    .bind(is_over)
    .bind(since_s)
    .execute(pool)
    .await
    .expect("inserted");
    id
}

/// Updates of the row that no index hears of.
async fn on_its_page(id: Uuid, pool: &PgPool) -> i64 {
    let mut transaction = pool.begin().await.expect("begun");
    sqlx::query("update cartulary.sagas set stage = 'shipping', since = clock_timestamp() where id = $1")
        .bind(id)
        .execute(&mut *transaction)
        .await
        .expect("updated");
    let hot = "select pg_stat_get_xact_tuples_hot_updated('cartulary.sagas'::regclass)";
    sqlx::query_scalar(hot).fetch_one(&mut *transaction).await.expect("a count")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_for_long_is_forgotten_and_a_stage_is_no_matter_of_indexes() {
    let world = World::start().await;
    let sagas = world.roles(&["sagas"], &[]).await;
    eventually("there is a table", async || sqlx::raw_sql(EARLIER).execute(&world.pool).await.ok()).await;
    drop(sagas);
    let long_over = insert("completed", true, 2.0 * 3_600.0, &world.pool).await;
    let just_over = insert("completed", true, 60.0, &world.pool).await;
    let open = insert("capturing", false, 2.0 * 3_600.0, &world.pool).await;
    assert_eq!(on_its_page(open, &world.pool).await, 0, "as it was before");

    let _sagas = world.roles(&["sagas"], &[]).await;
    let left = eventually("what is over for long is forgotten", async || {
        let ids: Vec<Uuid> = sqlx::query_scalar("select id from cartulary.sagas order by id")
            .fetch_all(&world.pool)
            .await
            .expect("sagas");
        (!ids.contains(&long_over)).then_some(ids)
    })
    .await;
    assert_eq!(left, [just_over, open]);
    assert_eq!(on_its_page(open, &world.pool).await, 1);
}
