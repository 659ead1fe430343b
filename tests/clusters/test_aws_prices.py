"""What a cluster costs an hour: by AWS's price list, by the spot market, by our own table, or not known."""

import json

import pytest

from raycompress.clusters.aws import prices
from raycompress.clusters.file.check import EstimateLine
from tests.support.outside.aws_files import GOOD, changed, written

GPU = ("available_node_types", "gpu", "node_config")


def product(dollars, unit="Hrs"):
    dimension = {"unit": unit, "pricePerUnit": {"USD": f"{dollars:.10f}"}}
    return json.dumps({"terms": {"OnDemand": {"sku.term": {"priceDimensions": {"sku.term.rate": dimension}}}}})


def estimate(folder, data=GOOD):
    return prices.estimate(written(folder, data))


def test_the_price_list(aws, tmp_path):
    asked = []

    def get_products(request):
        wanted = {each["Field"]: each["Value"] for each in request["Filters"]}
        asked.append(wanted)
        # the list has entries at no price (reserved capacity), and by other units
        listed = {"m5.large": 0.1, "g5.xlarge": 1.5}[wanted["instanceType"]]
        return {"PriceList": [product(0.0), product(9.9, "Quantity"), product(listed)]}

    aws.answers["GetProducts"] = get_products
    found = estimate(tmp_path, changed("provider", "region", "eu-west-1"))
    assert found.lines == (EstimateLine("head", "m5.large", 1, 0.1), EstimateLine("gpu", "g5.xlarge", 4, 1.5))
    assert found.dollars_per_hour == pytest.approx(6.1)
    assert found.source == "AWS's price list of today for eu-west-1"
    assert {(each["regionCode"], each["operatingSystem"], each["tenancy"]) for each in asked} == {
        ("eu-west-1", "Linux", "Shared")
    }


def test_the_built_in_table_says_what_it_is(aws, tmp_path):
    found = estimate(tmp_path)
    table = prices.built_in()
    assert [line.dollars_per_hour for line in found.lines] == [
        table["dollars_an_hour"]["m5.large"],
        table["dollars_an_hour"]["g5.xlarge"],
    ]
    assert found.source == f"a built-in table of {table['of']} for us-east-1: orders of magnitude, not AWS's own list"


def test_a_price_that_nobody_knows(aws, tmp_path):
    found = estimate(tmp_path, changed(*GPU, "InstanceType", "p9.huge"))
    assert found.lines[1].dollars_per_hour is None and found.dollars_per_hour is None
    assert "the price of p9.huge is not known" in found.source


def test_spot(aws, tmp_path):
    data = changed(*GPU, "InstanceMarketOptions", {"MarketType": "spot"})
    found = estimate(tmp_path, data)
    head, gpu = found.lines
    # what moto says of every type
    assert gpu.spot and gpu.dollars_per_hour == 0.00001 and not head.spot
    assert "spot prices of now, the dearest zone of us-east-1" in found.source
    data["available_node_types"]["gpu"]["node_config"]["InstanceType"] = "p9.huge"
    found = estimate(tmp_path, data)
    assert found.lines[1].dollars_per_hour is None and "the spot price of p9.huge is not known" in found.source


def test_without_a_network_the_table_is_taken(aws, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL_PRICING", "http://127.0.0.1:9")
    assert estimate(tmp_path).dollars_per_hour > 0


def test_the_head_may_have_workers_of_its_own_type(aws, tmp_path):
    data = changed("available_node_types", "head", "max_workers", 3)
    data["available_node_types"]["gpu"] |= {"min_workers": 0, "max_workers": 0}
    (line,) = estimate(tmp_path, data).lines
    assert (line.node_type, line.count) == ("head", 4)
