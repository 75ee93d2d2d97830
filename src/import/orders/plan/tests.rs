//! What rows become, rule by rule.

use super::*;
use crate::import::orders::fields;
use crate::import::orders::rows::tests::sheet;

fn plan(rows: &[&str]) -> Plan {
    // Number, code, description, quantity, day of December, price, customer.
    let row = |row: &&str| {
        let fields: Vec<&str> = row.split(',').collect();
        let [number, code, description, quantity, day, price, customer] = fields[..] else { panic!("{row}") };
        format!("{number},{code},{description},{quantity},2010-12-{day} 08:00:00,{price},{customer},UK\n")
    };
    Plan::of(sheet(&rows.iter().map(row).collect::<String>()), "GBP".parse().unwrap())
}

fn told(plan: &Plan) -> Vec<String> {
    let text = |text| plan.text(text).to_owned();
    let code = |article: u32| text(plan.articles[article as usize].code);
    let told = |step: &Step| match step.what {
        What::Product(article) => format!("product {}", code(article)),
        What::Withdraw(article) => format!("withdraw {}", code(article)),
        What::Open(article) => {
            format!("open {} {}", code(article), plan.articles[article as usize].opening())
        }
        What::Order(order) => {
            let order = &plan.orders[order as usize];
            format!("order {} {}", text(order.number), order.lines.len())
        }
        What::Reverse(reversal) => {
            let reversal = &plan.reversals[reversal as usize];
            let kind = if reversal.is_return { "return" } else { "refund" };
            let lines: Vec<_> =
                reversal.lines.iter().map(|line| format!("{}:{}", line.quantity, line.total)).collect();
            let order = text(plan.orders[reversal.order as usize].number);
            format!("{kind} {} of {order} {}", text(reversal.number), lines.join(" "))
        }
        What::Dispatch { article, quantity, .. } => format!("dispatch {} {quantity}", code(article)),
        What::Return { article, quantity, .. } => format!("restock {} {quantity}", code(article)),
        What::Adjust { article, row, .. } => format!("adjust {} {}", code(article), plan.row(row).quantity),
    };
    plan.steps.iter().map(told).collect()
}

fn reasons(plan: &Plan) -> Vec<(u32, &str)> {
    plan.unmappable.iter().map(|one| (one.line, one.reason.as_str())).collect()
}

#[test]
fn an_invoice_is_an_order_and_its_goods_leave_the_shelf() {
    let plan = plan(&[
        "1,22423,STAND,2,01,10.95,7",
        "1,POST,POSTAGE,1,01,3,7",
        "1,22423,STAND,3,01,10.95,7",
        "2,22423,STAND,1,02,12.75,8",
    ]);
    let expected =
        ["product 22423", "open 22423 6", "order 1 3", "dispatch 22423 5", "order 2 1", "dispatch 22423 1"];
    let mut told = told(&plan);
    // The order of one moment's steps on different streams does not matter.
    told[..4].sort_by_key(|step| expected.iter().position(|expected| expected == step));
    assert_eq!(told, expected);
    assert_eq!(plan.price(&plan.articles[0]).unwrap().amount, 1275);
    assert_eq!(plan.fates, Fates { order_lines: 4, order_invoices: 2, ..Fates::default() });
}

#[test]
fn a_cancellation_gives_back_what_was_bought_before() {
    let plan = plan(&[
        "1,22423,STAND,2,01,10.95,7",
        "1,M,Manual,1,01,5,7",
        "C2,22423,STAND,-1,02,10.95,7",
        "C2,M,Manual,-1,02,5,7",
        "C2,D,Discount,-1,02,27.50,7",
        "C3,22423,STAND,-3,03,10.95,7",
    ]);
    let told = told(&plan);
    assert_eq!(
        told[4..9],
        [
            "order C2 0",
            "return C2 of 1 1:1095",
            "refund C2 of 1 1:500",
            "refund C2 of C2 1:2750",
            "restock 22423 1"
        ]
    );
    assert_eq!(
        told[9..],
        [
            "order C3 0",
            "return C3 of 1 1:1095",
            "return C3 of C3 2:2190",
            "restock 22423 1",
            "restock 22423 2"
        ]
    );
    assert_eq!(plan.articles[0].opening(), 2);
    assert_eq!((plan.fates.reversals, plan.fates.cancellation_invoices), (4, 2));
}

#[test]
fn what_nobody_is_known_to_have_bought_is_an_order_of_the_cancellations_number() {
    let plan = plan(&[
        "1,22423,STAND,2,02,10.95,",
        "C2,22423,STAND,-1,03,10.95,",
        "3,22423,STAND,2,02,10.95,9",
        "C4,22423,STAND,-1,01,10.95,9",
    ]);
    let told = told(&plan);
    for expected in ["order C2 0", "return C2 of C2 1:1095", "order C4 0", "return C4 of C4 1:1095"] {
        assert!(told.iter().any(|told| told == expected), "{expected}: {told:?}");
    }
}

#[test]
fn the_stock_never_falls_below_nothing() {
    let plan = plan(&[
        "C1,22423,STAND,-4,01,1,7",
        "2,22423,STAND,3,02,1,7",
        "3,22423,damaged,-6,03,0,",
        "4,22423,STAND,1,04,1,7",
    ]);
    assert_eq!(plan.articles[0].opening(), 6);
    assert!(told(&plan).contains(&"adjust 22423 -6".to_owned()));
    assert_eq!((plan.fates.corrections, plan.fates.correction_invoices), (1, 1));
}

#[test]
fn titles_come_from_rows_with_a_price_and_a_product_without_one_is_withdrawn() {
    let plan = plan(&[
        "1,22423,?,1,01,0,7",
        "1,22423,,1,01,0,7",
        "1,22423,STAND,1,01,1,7",
        "1,22423,CAKE STAND,1,01,2,7",
        "1,22423,CAKE STAND,1,01,0.001,7",
        "2,84029,found,5,01,0,",
    ]);
    let title = |article: usize| plan.title(plan.articles[article].code);
    assert_eq!((title(0), title(1)), ("CAKE STAND", "84029"));
    assert_eq!(plan.price(&plan.articles[0]), None, "a tenth of a penny is no price");
    let told = told(&plan);
    assert!(told.contains(&"withdraw 84029".to_owned()) && told.contains(&"withdraw 22423".to_owned()));
}

#[test]
fn what_does_not_fit_is_listed_with_its_row() {
    let plan = plan(&[
        "A1,B,Adjust bad debt,1,01,11062.06,",
        "2,22423,STAND,-1,01,1,7",
        "2,POST,POSTAGE,-1,01,0,7",
        "2,22423,STAND,1,01,-1,7",
        "C3,22423,STAND,1,01,1,7",
        "X4,22423,STAND,1,01,1,7",
        "5,22423,STAND,1,01,1,7",
        "5,22423,STAND,1,01,1,8",
    ]);
    let expected = [
        (2, "bad debt"),
        (3, "below 0 at a price"),
        (4, "what is no goods"),
        (5, "UnitPrice is below 0"),
        (6, "above 0 in a cancellation"),
        (7, "neither a number"),
        (9, "first row"),
    ];
    let reasons = reasons(&plan);
    assert_eq!(reasons.len(), expected.len(), "{reasons:?}");
    for ((line, reason), (expected_line, expected)) in reasons.iter().zip(expected) {
        assert_eq!(*line, expected_line);
        assert!(reason.contains(expected), "{reason}");
    }
    let Fates { order_lines, unmappable, unmappable_invoices, .. } = plan.fates;
    assert_eq!((order_lines, unmappable, unmappable_invoices), (1, 7, 4));
}

#[test]
fn more_stock_than_a_shelf_can_begin_with_is_listed() {
    let rows = ["1,22423,STAND,900000,01,0,", "2,22423,STAND,900000,02,0,"];
    let plan = plan(&rows);
    assert!(reasons(&plan)[0].1.contains("1800000 of it at the beginning"), "{:?}", reasons(&plan));
    assert!(!told(&plan).iter().any(|told| told.starts_with("dispatch") || told.starts_with("open")));
}

#[test]
fn revenue_is_what_was_paid_less_what_was_given_back() {
    let plan =
        plan(&["1,22423,STAND,2,01,10.95,7", "1,PADS,PADS,1,01,0.001,7", "C2,22423,STAND,-1,02,10.95,7"]);
    let revenue = plan.revenue();
    let december = revenue[&("UK", "2010-12".to_owned())];
    assert_eq!((december.gross, december.refunded), (2190, 1095));
    assert_eq!(fields::month(plan.orders[0].at), "2010-12");
}

#[test]
fn the_same_rows_give_the_same_commands() {
    let rows = [
        "1,22423,STAND,2,01,10.95,7",
        "1,BANK CHARGES,Bank Charges,1,01,15,7",
        "2,22423,,-1,01,0,",
        "C2,22423,,-1,02,10.95,7",
    ];
    let (one, other) = (plan(&rows), plan(&rows));
    let mut ids = std::collections::BTreeSet::new();
    for (step, again) in one.steps.iter().zip(&other.steps) {
        let ((request, command), (again, same)) = (one.command(step), other.command(again));
        assert_eq!((request.command_id, request.hash, &command), (again.command_id, again.hash, &same));
        assert_eq!(request.occurred_at.map(|at| at.timestamp()), Some(step.at));
        assert!(ids.insert(request.command_id), "{step:?} has an id of its own");
        if let domain::Command::Order(_, domain::order::Command::Import(import)) = command {
            assert_eq!(import.lines[1].sku.as_str(), "BANK-CHARGES");
            assert_eq!(import.lines[1].title, "Bank Charges [BANK CHARGES]");
        }
    }
    let changed = plan(&["1,22423,STAND,3,01,10.95,7"]);
    let hash = |plan: &Plan| {
        let order = plan.steps.iter().find(|step| matches!(step.what, What::Order(_))).unwrap();
        plan.command(order).0.hash
    };
    assert_ne!(hash(&one), hash(&changed), "other content has another hash");
}
