"""Price of a cluster an hour: from AWS's price list, the spot market, or a dated table of our own."""

from __future__ import annotations

import datetime
import json
from importlib.resources import files
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from raycompress.clusters.aws.account import Account, Node
from raycompress.clusters.file.check import Estimate, EstimateLine
from raycompress.clusters.file.files import ClusterFile

# the price list itself is served in few regions only
_PRICE_LIST_REGION = "us-east-1"


def estimate(cluster: ClusterFile) -> Estimate:
    """Return what `cluster` costs an hour with as many workers as it may have."""
    account = Account(cluster)
    priced = [(node, *(_spot if node.spot else _on_demand)(account, node)) for node in account.nodes]
    lines = (EstimateLine(node.name, node.instance_type, node.most, dollars, node.spot) for node, dollars, _ in priced)
    return Estimate(tuple(lines), "; ".join(dict.fromkeys(source for _, _, source in priced)))


def _on_demand(account: Account, node: Node) -> tuple[float | None, str]:
    try:
        dollars = _listed(account, node.instance_type)
    except (BotoCoreError, ClientError):
        # whoever may not ask, or has no network, still gets the order of magnitude, and is told whose it is
        dollars = None
    if dollars is not None:
        return dollars, f"AWS's price list of today for {account.region}"
    table = built_in()
    dollars = table["dollars_an_hour"].get(node.instance_type)
    if dollars is None:
        return None, f"the price of {node.instance_type or node.name} is not known"
    return dollars, f"a built-in table of {table['of']} for {table['region']}: orders of magnitude, not AWS's own list"


def built_in() -> dict[str, Any]:
    """Return our own table: of when, of which region, dollars an hour by instance type, Linux on demand."""
    table: dict[str, Any] = json.loads((files(__package__) / "prices.json").read_text())
    return table


def _listed(account: Account, instance_type: str) -> float | None:
    wanted = {
        "instanceType": instance_type,
        "regionCode": account.region,
        "operatingSystem": "Linux",
        "preInstalledSw": "NA",
        "tenancy": "Shared",
        "capacitystatus": "Used",
    }
    answer = account.client("pricing", _PRICE_LIST_REGION).get_products(
        ServiceCode="AmazonEC2",
        Filters=[{"Type": "TERM_MATCH", "Field": key, "Value": value} for key, value in wanted.items()],
    )
    for product in answer["PriceList"]:
        for term in json.loads(product)["terms"].get("OnDemand", {}).values():
            for dimension in term["priceDimensions"].values():
                dollars = float(dimension["pricePerUnit"].get("USD", 0))
                if dollars > 0 and dimension["unit"] == "Hrs":
                    return dollars
    return None


def _spot(account: Account, node: Node) -> tuple[float | None, str]:
    """Return the dearest of the zones: which one Ray will get is not known."""
    try:
        history = account.client("ec2").describe_spot_price_history(
            InstanceTypes=[node.instance_type],
            ProductDescriptions=["Linux/UNIX"],
            StartTime=datetime.datetime.now(datetime.UTC),
        )["SpotPriceHistory"]
    except (BotoCoreError, ClientError):
        history = []
    prices = [
        float(entry["SpotPrice"])
        for entry in history
        if entry["InstanceType"] == node.instance_type
        and (not account.zones or entry["AvailabilityZone"] in account.zones)
    ]
    if not prices:
        return None, f"the spot price of {node.instance_type or node.name} is not known"
    return max(prices), f"spot prices of now, the dearest zone of {account.region}"
