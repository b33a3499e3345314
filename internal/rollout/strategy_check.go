package rollout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"slipway/internal/ci"
	"slipway/internal/fault"
	"slipway/internal/probe"
)

const (
	// checkTimeout bounds one request of a check.
	checkTimeout = 10 * time.Second
	// maxAnswer is how much of an answer of Prometheus is read, in bytes.
	maxAnswer = 1 << 20
)

// checkable returns an error if a check asks for the new version, and nothing leads to that.
func (s *steps) checkable() error {
	for _, step := range s.steps {
		for _, check := range step.Checks {
			if !strings.HasPrefix(check.URL, "/") {
				continue
			}
			for _, c := range s.canaries {
				if len(c.services) > 0 {
					return nil
				}
			}
			if len(s.canaries) > 0 {
				return fault.New(fault.Invalid, "the check %s asks the new version, but no service leads to it; give the check a whole url", oneLine(check.String()))
			}
		}
	}
	return nil
}

// loginsKnown returns an error if a login of a check cannot be used.
func (s *steps) loginsKnown() error {
	for _, check := range s.strategy.AllChecks() {
		if _, err := s.r.login(check.Login, "the check "+oneLine(check.String())); err != nil {
			return err
		}
	}
	return nil
}

// try tries a check once, and returns what it found.
func (s *steps) try(ctx context.Context, check ci.Check) (text string, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	if !strings.HasPrefix(check.URL, "/") {
		return s.tryOther(ctx, check)
	}
	for i := range s.canaries {
		services := s.canaries[i].services // the rest may be changed meanwhile
		if len(services) == 0 {
			continue
		}
		status, err := s.proxied(ctx, temporaryService(services[0], s.track), check.URL)
		if text, ok = judge(check, status, err); !ok {
			return text, false
		}
	}
	return text, ok
}

// tryOther asks somebody else's server. Checks are part of pipelines, as probes are.
func (s *steps) tryOther(ctx context.Context, check ci.Check) (text string, ok bool) {
	login, err := s.r.login(check.Login, "the check")
	if err != nil {
		return err.Error(), false
	}
	client := probe.Client(checkTimeout, login, s.r.ProbeLocal)
	if check.Query == "" {
		status, err := get(ctx, client, check.URL)
		return judge(check, status, err)
	}
	text, ok = query(ctx, client, check)
	for _, value := range []string{login.Token, login.Password} {
		if value != "" { // who was shown it may say it again
			text = strings.ReplaceAll(text, value, "(secret)")
		}
	}
	return text, ok
}

// judge says whether an answer is what a check wants.
func judge(check ci.Check, status int, err error) (text string, ok bool) {
	switch {
	case err != nil:
		return "no answer: " + oneLine(err.Error()), false
	case check.Status == 0 && status/100 != 2:
		return fmt.Sprintf("status %d, which is not 200 to 299", status), false
	case check.Status != 0 && status != check.Status:
		return fmt.Sprintf("status %d, not %d", status, check.Status), false
	}
	return fmt.Sprintf("status %d", status), true
}

// get returns the status of the answer at an address.
func get(ctx context.Context, client *http.Client, address string) (int, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return 0, err
	}
	request.Header.Set("User-Agent", "slipway")
	response, err := client.Do(request)
	if err != nil {
		return 0, innermost(err)
	}
	defer response.Body.Close()
	return response.StatusCode, nil
}

// innermost returns what an error of the HTTP client is about, without the address that the check has anyway.
func innermost(err error) error {
	if u := (*url.Error)(nil); errors.As(err, &u) {
		return u.Err
	}
	return err
}

// proxied asks a Service by way of the API server, which is reached from wherever deployments are made.
func (s *steps) proxied(ctx context.Context, service *unstructured.Unstructured, address string) (int, error) {
	ports, _, _ := unstructured.NestedSlice(service.Object, "spec", "ports")
	if len(ports) == 0 {
		return 0, fmt.Errorf("the service %s has no port", service.GetName())
	}
	port, _ := ports[0].(map[string]any)
	number := fmt.Sprint(port["port"])
	name := service.GetName() + ":" + number
	if protocol, _ := port["appProtocol"].(string); port["name"] == "https" || number == "443" || strings.EqualFold(protocol, "https") {
		name = "https:" + name
	}
	u, err := url.Parse(address)
	if err != nil {
		return 0, err
	}
	request := s.r.Client.Core.CoreV1().RESTClient().Get().
		AbsPath("/api/v1/namespaces/" + service.GetNamespace() + "/services/" + name + "/proxy" + u.Path).MaxRetries(0)
	for key, values := range u.Query() {
		for _, value := range values {
			request = request.Param(key, value)
		}
	}
	body, err := request.Stream(ctx)
	if err == nil {
		return http.StatusOK, body.Close()
	}
	var status apierrors.APIStatus
	explained := s.r.Client.Explain(err)
	switch {
	case fault.Of(explained).Code == fault.Forbidden: // the account may not, and not: the program says so
		return 0, explained
	case errors.As(err, &status) && status.Status().Code > 0:
		return int(status.Status().Code), nil
	}
	return 0, err
}

// query asks Prometheus, and says whether the condition holds for each value of the answer. See "Instant queries" in the
// documentation of its HTTP API.
func query(ctx context.Context, client *http.Client, check ci.Check) (text string, ok bool) {
	condition, err := ci.ParseCondition(check.Condition)
	if err != nil {
		return err.Error(), false
	}
	body := url.Values{"query": {check.Query}}.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(check.URL, "/")+"/api/v1/query", strings.NewReader(body))
	if err != nil {
		return oneLine(err.Error()), false
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("User-Agent", "slipway")
	response, err := client.Do(request)
	if err != nil {
		return "Prometheus does not answer: " + oneLine(innermost(err).Error()), false
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	if err != nil {
		return "Prometheus does not answer: " + oneLine(err.Error()), false
	}
	values, err := parseAnswer(data)
	if err != nil {
		return fmt.Sprintf("Prometheus answers with status %d: %s", response.StatusCode, oneLine(err.Error())), false
	}
	for _, value := range values {
		if !condition.Holds(value) {
			return fmt.Sprintf("%s, which is not %s", shortNumber(value), condition), false
		}
	}
	if len(values) == 0 {
		return `the query finds nothing; if that is good, add to it: or vector(...)`, false
	}
	text = shortNumber(values[0])
	if more := len(values) - 1; more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text + " " + condition.String(), true
}

func shortNumber(value float64) string { return strconv.FormatFloat(value, 'g', 6, 64) }

// parseAnswer returns the values of an answer of Prometheus to an instant query: one of a scalar, and one for each series
// of a vector.
func parseAnswer(data []byte) ([]float64, error) {
	if len(data) > maxAnswer {
		return nil, fmt.Errorf("the answer is larger than %d KiB", maxAnswer>>10)
	}
	var answer struct {
		Status    string `json:"status"`
		ErrorType string `json:"errorType"`
		Error     string `json:"error"`
		Data      struct {
			ResultType string          `json:"resultType"`
			Result     json.RawMessage `json:"result"`
		} `json:"data"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return nil, errors.New("the answer is not that of the API of Prometheus")
	}
	if answer.Status != "success" {
		if answer.Error == "" {
			return nil, errors.New("the answer is not that of the API of Prometheus")
		}
		return nil, fmt.Errorf("%s: %s", answer.ErrorType, answer.Error)
	}
	switch answer.Data.ResultType {
	case "scalar":
		var s sample
		if err := json.Unmarshal(answer.Data.Result, &s); err != nil {
			return nil, err
		}
		return []float64{float64(s)}, nil
	case "vector":
		var series []struct {
			Value *sample `json:"value"`
		}
		if err := json.Unmarshal(answer.Data.Result, &series); err != nil {
			return nil, err
		}
		values := make([]float64, len(series))
		for i, one := range series {
			if one.Value == nil {
				return nil, errors.New("the query must give numbers, not histograms")
			}
			values[i] = float64(*one.Value)
		}
		return values, nil
	}
	return nil, fmt.Errorf("the query must give a scalar or an instant vector, not a %q", answer.Data.ResultType)
}

// sample is a value with its time: [1435781451.781, "0.5"].
type sample float64

// UnmarshalJSON implements [json.Unmarshaler].
func (s *sample) UnmarshalJSON(data []byte) error {
	var pair []json.RawMessage
	var text string
	if json.Unmarshal(data, &pair) != nil || len(pair) != 2 || json.Unmarshal(pair[1], &text) != nil {
		return errors.New("a sample must be a pair of a time and a value")
	}
	value, err := strconv.ParseFloat(text, 64) // NaN and Inf included
	if err != nil {
		return errors.New("the value of a sample must be a number")
	}
	*s = sample(value)
	return nil
}
