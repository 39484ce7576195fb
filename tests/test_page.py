"""The web page and the API documentation in a real browser: keyboard, screen readers, narrow screens, other origins."""

import json

import pytest
import requests
from browser import ELSEWHERE, fetch, site
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from served import SAMPLE, get_json, own_home, service
from servers import wait_until
from versions import crown, register_model

from wine_quality import predictions
from wine_quality.ports import free_port
from wine_quality.schema import MEASUREMENTS

pytestmark = pytest.mark.slow

SLIDERS = ["pH" if name == "pH" else name.capitalize().replace("_", " ") for name in MEASUREMENTS]


@pytest.fixture(scope="module")
def config(tmp_path_factory, few_wines):
    with own_home(tmp_path_factory.mktemp("page"), few_wines) as config:
        crown(register_model(config, "linear", intervals=True))
        yield config


@pytest.fixture(scope="module")
def url(config):
    with service(config) as url:
        yield url


@pytest.fixture
def page(chromium, url):
    return open_page(chromium, url)


def open_page(chromium, url):
    chromium.get("about:blank")
    for kind in ("browser", "performance"):
        chromium.get_log(kind)
    chromium.get(url)
    wait_until(lambda: text(chromium, "score") not in ("", "–"), "a score")
    return chromium


def text(page, name):
    return page.find_element(By.ID, name).text


def post(url, sample):
    return requests.post(url, json=sample, timeout=30).json()


def counter(url, name, labels=""):
    """Return the sum over a counter's series whose labels contain a text."""
    lines = requests.get(f"{url}/metrics", timeout=30).text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name) and labels in line)


def requests_to(url, path):
    return counter(url, "wine_requests_total", f'path="{path}"')


def press(page, *keys):
    ActionChains(page).send_keys(*keys).perform()


def focused(page):
    return page.switch_to.active_element


def requested_origins(page):
    """Return the origins to which the pages have sent requests since this function was last called.

    Requests that a page's content security policy blocks are never sent, although the browser logs them.
    """
    events = [json.loads(entry["message"])["message"] for entry in page.get_log("performance")]
    blocked = {event["params"]["requestId"] for event in events if event["params"].get("blockedReason") == "csp"}
    requested = [event["params"] for event in events if event["method"] == "Network.requestWillBeSent"]
    urls = [one["request"]["url"] for one in requested if one["requestId"] not in blocked]
    return {"/".join(address.split("/")[:3]) for address in urls if not address.startswith(("data:", "about:"))}


def test_the_page_shows_the_score_of_the_median_sample_and_the_nearest_rows(page, url):
    medians = {one["name"]: one["median"] for one in get_json(f"{url}/ranges")["ranges"]}
    sample = {"type": "white", **medians}
    score = post(f"{url}/predict", sample)
    assert text(page, "score") == f"{score['score']:.2f}"
    assert text(page, "quality") == f"Quality {score['quality']} · model version 1 · not stored"
    assert text(page, "interval").replace("\u00a0", " ") == f"90 % interval: {score['low']:.1f} to {score['high']:.1f}"
    nearest = post(f"{url}/nearest", sample)["nearest"]
    rows = page.find_elements(By.CSS_SELECTOR, "#nearest tr")
    shown = [[cell.text for cell in row.find_elements(By.TAG_NAME, "td")[:2]] for row in rows]
    assert shown == [[one["type"].capitalize(), str(one["quality"])] for one in nearest]
    first = nearest[0]["differs_most"]
    assert f"{first['value']:g}" in rows[0].text
    assert f"your value: {first['requested']:g}" in rows[0].text.replace("\u00a0", " ")


def test_every_control_can_be_reached_by_tab_and_has_a_name_and_a_role(page):
    found = []
    for _ in range(14):
        press(page, Keys.TAB)
        found.append((focused(page).aria_role, focused(page).accessible_name))
    others = [("button", "Reset to medians"), ("link", "API documentation")]
    assert found == [("radio", "White"), *(("slider", name) for name in SLIDERS), *others]


def test_arrow_keys_alone_change_the_score(page):
    before = text(page, "score")
    press(page, Keys.TAB, Keys.ARROW_LEFT)
    assert focused(page).accessible_name == "Red"
    wait_until(lambda: text(page, "score") != before, "another score")
    press(page, *[Keys.TAB] * len(SLIDERS))
    alcohol, before = focused(page), text(page, "score")
    median = alcohol.get_attribute("value")
    press(page, *[Keys.ARROW_RIGHT] * 5)
    step = float(alcohol.get_attribute("step"))
    assert float(alcohol.get_attribute("value")) == pytest.approx(float(median) + 5 * step)
    wait_until(lambda: float(text(page, "score")) > float(before), "a higher score")
    press(page, Keys.TAB, Keys.ENTER)
    assert alcohol.get_attribute("value") == median


def test_moving_the_sliders_stores_no_prediction_and_sends_no_request_to_predict(page, url, config):
    assert text(page, "quality").endswith(" · not stored")
    before_all = requests_to(url, "/predict")
    for name in MEASUREMENTS:
        before = requests_to(url, "/preview")
        page.find_element(By.ID, name).send_keys(Keys.END)
        wait_until(lambda before=before: requests_to(url, "/preview") > before, f"a preview after {name} moved")
    assert requests_to(url, "/predict") == before_all
    real = post(f"{url}/predict", SAMPLE)["id"]
    wait_until(lambda: real in set(predictions.load(config.predictions_uri)["id"]), "the real prediction")
    assert predictions.count(config.predictions_uri) == before_all + 1


def test_a_slider_announces_its_value_with_its_unit_within_the_typical_range(page, url):
    for one in get_json(f"{url}/ranges")["ranges"]:
        slider = page.find_element(By.ID, one["name"])
        for key, value in ((Keys.HOME, one["low"]), (Keys.END, one["high"])):
            slider.send_keys(key)
            announced = slider.get_attribute("aria-valuetext")
            assert float(announced.split(" ")[0]) == float(slider.get_attribute("value")) == pytest.approx(value)
            assert announced.partition(" ")[2] == ("" if one["unit"] == "pH" else one["unit"])
            assert page.find_element(By.CSS_SELECTOR, f"output[for={one['name']}]").text == announced


def test_the_curve_under_each_slider_shows_how_the_score_would_change_and_the_current_value(page, url):
    sample = {"type": "white", **{one["name"]: one["median"] for one in get_json(f"{url}/ranges")["ranges"]}}
    curves = {one["name"]: one for one in post(f"{url}/curves", sample)["curves"]}
    assert list(curves) == list(MEASUREMENTS)
    for name, curve in curves.items():
        svg = page.find_element(By.ID, f"curve-{name}")
        low, high = min(curve["scores"]), max(curve["scores"])
        assert svg.aria_role in ("image", "img")
        assert svg.accessible_name.endswith(f": {low:.2f} to {high:.2f}")
        line, current = (path.get_attribute("d") for path in svg.find_elements(By.TAG_NAME, "path"))
        assert line.count("L") == len(curve["values"]) - 1
        share = 100 * (sample[name] - curve["values"][0]) / (curve["values"][-1] - curve["values"][0])
        assert float(current.split()[1]) == pytest.approx(share, abs=1)


def test_a_screen_reader_announces_a_new_score_and_finds_the_group_and_the_table(page):
    live = page.find_element(By.CSS_SELECTOR, "[aria-live=polite]")
    assert text(page, "score") in live.text
    assert live.get_attribute("aria-atomic") == "true"
    group = page.find_element(By.TAG_NAME, "fieldset")
    assert (group.aria_role, group.accessible_name) == ("group", "Type")
    assert page.find_element(By.TAG_NAME, "table").accessible_name == "Most similar rows of the dataset"
    assert [head.aria_role for head in page.find_elements(By.TAG_NAME, "th")] == ["columnheader"] * 3
    assert page.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"
    assert [h1.text for h1 in page.find_elements(By.TAG_NAME, "h1")] == ["Wine quality"]


@pytest.mark.parametrize("width", [360, 1280])
def test_the_page_fits_a_phone_and_a_desktop(page, width):
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    html = page.find_element(By.TAG_NAME, "html")
    content, visible = (int(html.get_property(name)) for name in ("scrollWidth", "clientWidth"))
    assert content == visible <= width
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_the_page_and_the_documentation_send_no_request_elsewhere_and_log_no_error(page, url):
    assert requested_origins(page) == {url}
    page.get(f"{url}/docs")
    wait_until(lambda: len(page.find_elements(By.CSS_SELECTOR, ".opblock-summary-path")) == 9, "the routes")
    assert page.find_elements(By.CSS_SELECTOR, ".errors-wrapper") == []
    assert "Wine quality" in page.find_element(By.CSS_SELECTOR, ".title").text
    assert requested_origins(page) == {url}
    assert page.get_log("browser") == []


def test_if_the_service_stops_the_last_score_stays_and_the_page_recovers_by_itself(chromium, config):
    own = config.model_copy(update={"serve_port": free_port()})
    with service(own) as url:
        page = open_page(chromium, url)
        before = text(page, "score")
    page.find_element(By.ID, "alcohol").send_keys(Keys.END)
    wait_until(lambda: text(page, "problem"), "the problem")
    assert text(page, "problem") == "The service is not responding. Retrying …"
    assert text(page, "score") == before
    with service(own):
        wait_until(lambda: not text(page, "problem"), "the service")
        assert float(text(page, "score")) > float(before)


def test_the_page_says_if_the_dataset_is_synthetic(chromium, config):
    own = config.model_copy(update={"registered_model": "synthetic", "serve_port": free_port()})
    crown(register_model(own, "linear", source="sample"))
    with service(own) as url:
        page = open_page(chromium, url)
        assert text(page, "caption") == "Most similar rows of the synthetic sample (not real wines)"


def test_a_page_without_a_champion_says_why_there_is_no_score(chromium, config):
    with service(config.model_copy(update={"registered_model": "no-such", "serve_port": free_port()})) as url:
        chromium.get(url)
        wait_until(lambda: text(chromium, "problem"), "the problem")
        reason = "no model is loaded: no version has the alias champion. Train one: make run"
        assert text(chromium, "problem") == f"{reason}. Retrying …"
        assert text(chromium, "score") == "–"


@pytest.mark.parametrize("name", ["localhost", ELSEWHERE])
def test_a_page_of_another_origin_can_neither_read_nor_score(chromium, url, tmp_path, name):
    sample = json.dumps({"type": "white", **dict.fromkeys(MEASUREMENTS)})
    with site(tmp_path) as port:
        chromium.get(f"http://{name}:{port}")
        before = counter(url, "wine_rows_scored_total")  # only now can no page of an earlier test score
        assert fetch(chromium, f"{url}/model").startswith("blocked")
        for content_type in ("application/json", "text/plain"):
            sent = {"method": "POST", "headers": {"Content-Type": content_type}, "body": sample}
            assert fetch(chromium, f"{url}/predict", **sent).startswith("blocked")
            assert fetch(chromium, f"{url}/predict", mode="no-cors", **sent) == ""
    chromium.get(url.replace("127.0.0.1", ELSEWHERE))
    assert "another origin" in chromium.page_source
    assert counter(url, "wine_rows_scored_total") == before
    for host, status in ((ELSEWHERE, 403), ("localhost", 200)):
        answer = requests.get(f"{url}/model", headers={"Host": f"{host}:8000"}, timeout=30)
        assert answer.status_code == status
