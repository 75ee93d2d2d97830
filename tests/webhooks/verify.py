"""What a receiver makes of webhooks: the Standard Webhooks project's own package verifies each.

Arguments: folder of the package, then secrets. Reads a JSON list of {headers, body}; prints how many verify with
each secret, as a JSON list. What verifies must not when a letter of it is changed.
"""
import json
import sys

sys.path.insert(0, sys.argv[1])
from standardwebhooks import Webhook, WebhookVerificationError  # noqa: E402


def verifies(webhook, body, headers):
    try:
        webhook.verify(body, headers)
        return True
    except WebhookVerificationError:
        return False


messages = json.load(sys.stdin)
counts = []
for secret in sys.argv[2:]:
    webhook = Webhook(secret)
    good = [one for one in messages if verifies(webhook, one["body"], one["headers"])]
    for one in good:
        assert not verifies(webhook, one["body"] + " ", one["headers"])
        assert not verifies(webhook, one["body"], {**one["headers"], "webhook-id": "msg_other"})
    counts.append(len(good))
print(json.dumps(counts))
