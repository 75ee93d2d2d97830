"""What a foreign client makes of the simulated provider: Stripe's own, on the whole way of money.

Arguments: folder of the client, URL of the simulator. Prints "ok" after the last check.
"""
import http.server
import json
import sys
import threading
import urllib.request

sys.path.insert(0, sys.argv[1])
import stripe  # noqa: E402

stripe.api_base = sys.argv[2]
stripe.api_key = "sk_test_contract"
stripe.max_network_retries = 0
stripe.enable_telemetry = False


def refused(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"not refused with {kind.__name__}")


def hold(reference, **more):
    parameters = dict(amount=1000, currency="gbp", capture_method="manual", confirm=True,
                      payment_method="pm_card_visa", payment_method_types=["card"],
                      metadata={"attempt_ref": reference})
    return stripe.PaymentIntent.create(**{**parameters, **more})


def bank(path, **more):
    request = urllib.request.Request(f"{sys.argv[2]}/_sim/{path}", json.dumps(more).encode(), method="POST")
    return json.load(urllib.request.urlopen(request))


class Hooks(http.server.BaseHTTPRequestHandler):
    got = []
    came = threading.Condition()

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with Hooks.came:
            Hooks.got.append((body, self.headers["Stripe-Signature"]))
            Hooks.came.notify()
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hooks)
threading.Thread(target=server.serve_forever, daemon=True).start()
endpoint = stripe.WebhookEndpoint.create(
    url=f"http://127.0.0.1:{server.server_port}/hooks", enabled_events=["payment_intent.succeeded"])
assert endpoint.secret.startswith("whsec_")

# Held, taken in part, given back in parts.
held = hold("one", expand=["latest_charge"])
assert (held.status, held.amount_capturable, held.metadata["attempt_ref"]) == ("requires_capture", 1000, "one")
assert held.latest_charge.object == "charge" and not held.latest_charge.captured
taken = stripe.PaymentIntent.capture(held.id, amount_to_capture=700)
assert (taken.status, taken.amount_received, taken.amount_capturable) == ("succeeded", 700, 0)
first = stripe.Refund.create(payment_intent=held.id, amount=300, metadata={"attempt_ref": "one-back"})
assert (first.status, stripe.Refund.retrieve(first.id).amount) == ("succeeded", 300)
too_much = refused(stripe.InvalidRequestError, lambda: stripe.Refund.create(payment_intent=held.id, amount=401))
assert too_much.http_status == 400 and too_much.param == "amount"
stripe.Refund.create(payment_intent=held.id)
again = refused(stripe.InvalidRequestError, lambda: stripe.Refund.create(payment_intent=held.id))
assert again.code == "charge_already_refunded"
assert [refund.amount for refund in stripe.Refund.list(payment_intent=held.id)] == [400, 300]
assert stripe.Charge.list(payment_intent=held.id).data[0].refunded

# Its signature, by Stripe's own check.
with Hooks.came:
    assert Hooks.came.wait_for(lambda: Hooks.got, timeout=30)
body, signature = Hooks.got[0]
event = stripe.Webhook.construct_event(body, signature, endpoint.secret)
assert (event.type, event.data.object.id, event.data.object.amount_received) == (
    "payment_intent.succeeded", held.id, 700)
assert stripe.Event.retrieve(event.id).data.object.id == held.id
refused(stripe.SignatureVerificationError,
        lambda: stripe.Webhook.construct_event(body.replace(b"700", b"701"), signature, endpoint.secret))
stripe.WebhookEndpoint.delete(endpoint.id)
assert not stripe.WebhookEndpoint.list().data

# Disputed and won; what the bank has can't be given back.
disputed = stripe.PaymentIntent.capture(hold("disputed").id)
dispute = stripe.Dispute.retrieve(bank("disputes", payment_intent=disputed.id)["id"])
assert (dispute.status, dispute.amount, dispute.payment_intent) == ("needs_response", 1000, disputed.id)
assert [moved.amount for moved in dispute.balance_transactions] == [-1000]
assert stripe.PaymentIntent.retrieve(disputed.id, expand=["latest_charge"]).latest_charge.disputed
kept = refused(stripe.InvalidRequestError, lambda: stripe.Refund.create(payment_intent=disputed.id))
assert kept.code == "charge_disputed"
bank(f"disputes/{dispute.id}/won")
won = stripe.Dispute.list(payment_intent=disputed.id).data[0]
assert won.status == "won" and [moved.amount for moved in won.balance_transactions] == [-1000, 1000]
kinds = [event.type for event in stripe.Event.list(type="charge.dispute.*")]
assert kinds == ["charge.dispute.funds_reinstated", "charge.dispute.closed", "charge.dispute.funds_withdrawn",
                 "charge.dispute.created"], kinds
event = stripe.Event.list(type="charge.dispute.closed").data[0]
assert (event.data.object.object, event.data.object.id) == ("dispute", dispute.id)

# Released; and what is not possible any more.
released = stripe.PaymentIntent.cancel(hold("two").id, cancellation_reason="abandoned")
assert (released.status, released.cancellation_reason) == ("canceled", "abandoned")
late = refused(stripe.InvalidRequestError, lambda: stripe.PaymentIntent.capture(released.id))
assert late.code == "payment_intent_unexpected_state" and late.error.payment_intent.status == "canceled"

# Declined, then paid in another way.
declined = refused(stripe.CardError, lambda: hold("three", payment_method="pm_card_visa_chargeDeclinedInsufficientFunds"))
assert (declined.http_status, declined.code) == (402, "card_declined")
assert declined.error.decline_code == "insufficient_funds"
intent = declined.error.payment_intent
assert intent.status == "requires_payment_method"
stripe.PaymentIntent.modify(intent.id, amount=900, metadata={"note": "cheaper"})
paid = stripe.PaymentIntent.confirm(intent.id, payment_method="pm_card_visa")
assert (paid.status, paid.amount_capturable, paid.metadata["note"]) == ("requires_capture", 900, "cheaper")

# A challenge.
asked = hold("four", payment_method="pm_card_threeDSecure2Required", return_url="https://shop.example/")
assert asked.status == "requires_action" and asked.next_action.type == "redirect_to_url"

# Keys.
key = dict(idempotency_key="key-five")
assert hold("five", **key).id == hold("five", **key).id
refused(stripe.IdempotencyError, lambda: hold("five", amount=1001, **key))
refused(stripe.AuthenticationError, lambda: stripe.PaymentIntent.retrieve(held.id, api_key="sk_live_x"))
refused(stripe.InvalidRequestError, lambda: stripe.PaymentIntent.retrieve("pi_nothing"))
refused(stripe.InvalidRequestError, lambda: hold("six", payment_method_data={"card": {"number": "4242424242424242"}}))

# Found by reference, and all of them page by page.
found = stripe.PaymentIntent.search(query="metadata['attempt_ref']:'five'")
assert [intent.metadata["attempt_ref"] for intent in found.auto_paging_iter()] == ["five"]
references = [intent.metadata["attempt_ref"] for intent in stripe.PaymentIntent.list(limit=2).auto_paging_iter()]
assert references == ["five", "four", "three", "two", "disputed", "one"], references
kinds = [event.type for event in stripe.Event.list(limit=3, type="payment_intent.canceled").auto_paging_iter()]
assert kinds == ["payment_intent.canceled"]
print("ok")
