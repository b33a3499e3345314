package rollout

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"slipway/internal/ci"
	"slipway/internal/probe"
)

func TestPortions(t *testing.T) {
	for _, c := range []struct{ full, weight, oldPods, newPods int64 }{
		{10, 0, 10, 1},
		{10, 10, 10, 1},
		{10, 20, 10, 3},
		{10, 50, 10, 10},
		{10, 75, 3, 10},
		{10, 90, 1, 10},
		{10, 100, 10, 10},
		{1, 10, 1, 1},
		{1, 50, 1, 1},
		{1, 99, 1, 1},
		{3, 25, 3, 1},
		{3, 75, 1, 3},
		{200, 1, 200, 2},
	} {
		if o, n := portions(c.full, c.weight); o != c.oldPods || n != c.newPods {
			t.Errorf("%d %% of %d pods are %d and %d, want %d and %d", c.weight, c.full, o, n, c.oldPods, c.newPods)
		}
	}
}

func TestTemporaryName(t *testing.T) {
	if got := temporaryName("web", "canary"); got != "web-canary" {
		t.Errorf("got %s", got)
	}
	long := strings.Repeat("a", 63)
	one, other := temporaryName(long, "preview"), temporaryName(long[:62]+"b", "preview")
	if len(one) > 63 || one == other || !strings.HasSuffix(one, "-preview") {
		t.Errorf("long names become %s and %s", one, other)
	}
}

func TestWeighRules(t *testing.T) {
	for _, c := range []struct {
		name, rules, want string
		weight            int64
	}{
		{"alone", `[{"backendRefs":[{"name":"web","port":80}]}]`, `[{"backendRefs":[{"name":"web","port":80,"weight":90},{"name":"web-canary","port":80,"weight":10}]}]`, 10},
		{"with others", `[{"backendRefs":[{"name":"a","weight":1},{"name":"web","weight":2}]}]`, `[{"backendRefs":[{"name":"a","weight":100},{"name":"web","weight":150},{"name":"web-canary","weight":50}]}]`, 25},
		{"not it", `[{"backendRefs":[{"name":"a"},{"name":"web","namespace":"b"},{"kind":"Other","name":"web"}]},{"matches":[]}]`, `[{"backendRefs":[{"name":"a"},{"name":"web","namespace":"b"},{"kind":"Other","name":"web"}]},{"matches":[]}]`, 25},
		{"in full", `[{"backendRefs":[{"kind":"Service","group":"","name":"web","namespace":"shop"}]}]`, `[{"backendRefs":[{"group":"","kind":"Service","name":"web","namespace":"shop","weight":0},{"group":"","kind":"Service","name":"web-canary","namespace":"shop","weight":100}]}]`, 100},
		{"large", `[{"backendRefs":[{"name":"a","weight":1000000},{"name":"b","weight":1},{"name":"web","weight":500000}]}]`, `[{"backendRefs":[{"name":"a","weight":1000000},{"name":"b","weight":1},{"name":"web","weight":250000},{"name":"web-canary","weight":250000}]}]`, 50},
		{"odd", `["x",{"backendRefs":"y"},{"backendRefs":["z",{"name":"web","weight":-1}]}]`, `["x",{"backendRefs":"y"},{"backendRefs":[{"name":"web","weight":-50},{"name":"web-canary","weight":-50}]}]`, 50},
	} {
		var rules []any
		if err := json.Unmarshal([]byte(c.rules), &rules); err != nil {
			t.Fatal(err)
		}
		got, err := json.Marshal(weighRules(rules, "web", "web-canary", "shop", c.weight))
		if err != nil || string(got) != c.want {
			t.Errorf("%s: %s, want %s (%v)", c.name, got, c.want, err)
		}
		if again, _ := json.Marshal(rules); c.name != "odd" && len(again) != len(c.rules) {
			t.Errorf("%s: the rules before have changed to %s", c.name, again)
		}
	}
}

// TestQuery holds the client to the format that the documentation of Prometheus' HTTP API gives for instant queries.
func TestQuery(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		status       int
		want         string
		ok           bool
	}{
		{"vector", `{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"up","job":"a"},"value":[1435781451.781,"0.001"]},{"metric":{},"value":[1435781451.781,"0"]}]}}`, 200, "0.001 and 1 more < 0.01", true},
		{"scalar", `{"status":"success","data":{"resultType":"scalar","result":[1435781460.781,"1"]}}`, 200, "1, which is not < 0.01", false},
		{"one of two", `{"status":"success","data":{"resultType":"vector","result":[{"value":[1,"0"]},{"value":[1,"0.5"]}]}}`, 200, "0.5, which is not < 0.01", false},
		{"not a number", `{"status":"success","data":{"resultType":"vector","result":[{"value":[1,"NaN"]}]}}`, 200, "NaN, which is not < 0.01", false},
		{"infinite", `{"status":"success","data":{"resultType":"scalar","result":[1,"-Inf"]}}`, 200, "-Inf < 0.01", true},
		{"nothing", `{"status":"success","data":{"resultType":"vector","result":[]}}`, 200, "the query finds nothing", false},
		{"wrong query", `{"status":"error","errorType":"bad_data","error":"parse error: unexpected end of input"}`, 400, "status 400: bad_data: parse error", false},
		{"matrix", `{"status":"success","data":{"resultType":"matrix","result":[]}}`, 200, `not a "matrix"`, false},
		{"histogram", `{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"histogram":[1,{"count":"1"}]}]}}`, 200, "not histograms", false},
		{"a page", `<html>`, 200, "not that of the API of Prometheus", false},
		{"another API", `{}`, 200, "not that of the API of Prometheus", false},
		{"no pair", `{"status":"success","data":{"resultType":"scalar","result":[1]}}`, 200, "a pair", false},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodPost || r.URL.Path != "/api/v1/query" || r.FormValue("query") != "a + b" {
				t.Errorf("%s: asked %s %s with %q", c.name, r.Method, r.URL, r.FormValue("query"))
			}
			w.WriteHeader(c.status)
			fmt.Fprint(w, c.answer)
		}))
		text, ok := query(t.Context(), probe.Client(10*time.Second, probe.Login{}, true), ci.Check{URL: server.URL, Query: "a + b", Condition: "< 0.01"})
		server.Close()
		if !strings.Contains(text, c.want) || ok != c.ok {
			t.Errorf("%s: %q, %t; want %q, %t", c.name, text, ok, c.want, c.ok)
		}
	}
	if text, ok := query(t.Context(), probe.Client(10*time.Second, probe.Login{}, true), ci.Check{URL: "http://127.0.0.1:1", Query: "a", Condition: "> 0"}); ok || !strings.Contains(text, "Prometheus does not answer: dial tcp 127.0.0.1:1: connect: connection refused") {
		t.Errorf("where nothing listens: %q", text)
	}
}

// TestLogin asks servers that want to know who asks.
func TestLogin(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user != "ada" || password != "very-secret" {
			w.WriteHeader(http.StatusUnauthorized)
		}
		fmt.Fprintf(w, `{"status":"error","errorType":"you said","error":%q}`, password)
	}))
	defer server.Close()
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	from := func(name string) *ci.FromSecret { return &ci.FromSecret{Secret: name} }
	known := map[string]string{"good": "very-secret\n", "bad": "wrong", "ca": ca, "none": " \n", "text": "no certificate"}
	s := &steps{deployment: &deployment{r: Request{ProbeLocal: true, Secrets: known}}}
	for _, c := range []struct {
		name  string
		login ci.Login
		query string
		want  string
		ok    bool
	}{
		{"good", ci.Login{Username: "ada", Password: from("good"), CA: from("ca")}, "", "status 200", true},
		{"wrong", ci.Login{Username: "ada", Password: from("bad"), CA: from("ca")}, "", "status 401, which is not 200 to 299", false},
		{"a token", ci.Login{Token: from("good"), CA: from("ca")}, "", "status 401, which is not 200 to 299", false},
		{"nobody", ci.Login{CA: from("ca")}, "", "status 401, which is not 200 to 299", false},
		{"a stranger", ci.Login{Username: "ada", Password: from("good")}, "", "certificate signed by unknown authority", false},
		{"an echo", ci.Login{Username: "ada", Password: from("good"), CA: from("ca")}, "up", "Prometheus answers with status 200: you said: (secret)", false},
		{"no certificate", ci.Login{CA: from("text")}, "", "the secret text, which the check needs, has no certificate in PEM", false},
		{"empty", ci.Login{Token: from("none")}, "", "the secret none, which the check needs, is not there or empty; give it by: --secret none=FILE", false},
	} {
		text, ok := s.try(t.Context(), ci.Check{URL: server.URL, Login: c.login, Query: c.query, Condition: "> 0"})
		if !strings.Contains(text, c.want) || ok != c.ok || strings.Contains(text, "very-secret") {
			t.Errorf("%s: %q, %t; want %q, %t", c.name, text, ok, c.want, c.ok)
		}
	}
	if _, err := (Request{Release: ci.Release{Run: 7, Repo: "ada/engine"}}).login(ci.Login{CA: from("ca")}, "the probe"); err == nil ||
		!strings.Contains(err.Error(), "the secret ca, which the probe needs, is not there or empty; set it by: slipway secret set ada/engine ca, for pull requests") {
		t.Errorf("in a run: %v", err)
	}
}

func FuzzParseAnswer(f *testing.F) {
	f.Add([]byte(`{"status":"success","data":{"resultType":"vector","result":[{"value":[1435781451.781,"1"]}]}}`))
	f.Add([]byte(`{"status":"success","data":{"resultType":"scalar","result":[1,"NaN"]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if values, err := parseAnswer(data); err != nil && values != nil {
			t.Errorf("%q gives both %v and %v", data, values, err)
		}
	})
}

func TestGet(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "/", http.StatusFound)
		}
	}))
	defer server.Close()
	for path, want := range map[string]int{"/": 200, "/moved": 302} {
		if status, err := get(t.Context(), probe.Client(10*time.Second, probe.Login{}, true), server.URL+path); err != nil || status != want {
			t.Errorf("%s: %d, %v", path, status, err)
		}
	}
	if _, err := get(t.Context(), probe.Client(10*time.Second, probe.Login{}, false), server.URL); err == nil || !strings.Contains(err.Error(), "only trusted repos") {
		t.Errorf("the machine itself is asked: %v", err)
	}
	if _, err := get(t.Context(), probe.Client(10*time.Second, probe.Login{}, true), "http://169.254.169.254/latest"); err == nil || !strings.Contains(err.Error(), "link-local") {
		t.Errorf("the metadata of a machine is asked: %v", err)
	}
}

func TestServes(t *testing.T) {
	pod := func(uid string, ready corev1.ConditionStatus) corev1.Pod {
		p := corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}}}
		p.UID = types.UID(uid)
		return p
	}
	endpoint := func(uid string, ready bool) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{TargetRef: &corev1.ObjectReference{UID: types.UID(uid)}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}
	}
	slices := func(endpoints ...discoveryv1.Endpoint) []discoveryv1.EndpointSlice {
		return []discoveryv1.EndpointSlice{{}, {Endpoints: endpoints}}
	}
	for name, c := range map[string]struct {
		slices []discoveryv1.EndpointSlice
		pods   []corev1.Pod
		want   bool
	}{
		"all":             {slices(endpoint("a", true)), []corev1.Pod{pod("a", "True")}, true},
		"another":         {slices(endpoint("a", true), endpoint("b", true)), []corev1.Pod{pod("a", "True")}, false},
		"another, ending": {slices(endpoint("a", true), endpoint("b", false)), []corev1.Pod{pod("a", "True")}, true},
		"none yet":        {slices(), []corev1.Pod{pod("a", "True")}, false},
		"none ready":      {slices(endpoint("a", false)), []corev1.Pod{pod("a", "False")}, true},
	} {
		if got := serves(c.slices, c.pods); got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
