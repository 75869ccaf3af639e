"""What the suite needs beside the SDK: Tollgate's admin API over urllib, to make a tenant for each test and to look at the books."""

import json
import os
import re
import urllib.request
import uuid

URL = os.environ["TOLLGATE_URL"]
ADMIN_KEY = os.environ["TOLLGATE_ADMIN_KEY"]


def admin(method, path, body=None):
    request = urllib.request.Request(
        f"{URL}/admin/v1/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"authorization": f"Bearer {ADMIN_KEY}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or b"null")


class Tenant:
    """A tenant of its own for one test, so that what is counted is the test's alone."""

    def __init__(self, cap_usd="1.00", **limits):
        self.id = f"py-{uuid.uuid4().hex[:12]}"
        admin("POST", "tenants", {"id": self.id, "name": self.id})
        budget = {"tenant": self.id, "window": "lifetime", "basis": "cost", "cap_usd": cap_usd}
        admin("PUT", "budgets", budget)
        self.key = admin("POST", "keys", {"tenant": self.id, **limits})["key"]

    def requests_seen(self):
        """How many requests reached the gateway, by outcome."""
        with urllib.request.urlopen(f"{URL}/metrics", timeout=30) as answer:
            text = answer.read().decode()
        seen = {}
        for labels, value in re.findall(r"^tollgate_requests_total\{(.*)\} ([0-9.]+)", text, re.MULTILINE):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if labels.get("tenant") == self.id:
                seen[labels["outcome"]] = seen.get(labels["outcome"], 0) + int(float(value))
        return seen

    def budget(self):
        """Picodollars of the tenant's one budget, by name."""
        (budget,) = admin("GET", f"budgets?tenant={self.id}")["data"]
        return {name: int(value) for name, value in budget.items() if name.endswith("_picousd")}
