package main

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

func TestFactIsOneOfTheFacts(t *testing.T) {
	known := facts(text)
	if len(known) < 10 {
		t.Fatalf("only %d facts", len(known))
	}
	for range 50 {
		answer := httptest.NewRecorder()
		handler(known).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/fact", nil))
		if fact := strings.TrimSpace(answer.Body.String()); answer.Code != http.StatusOK || !slices.Contains(known, fact) {
			t.Fatalf("GET /fact = %d %q", answer.Code, fact)
		}
	}
}

func TestUnknownPathIsNotFound(t *testing.T) {
	answer := httptest.NewRecorder()
	handler(nil).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/fax", nil))
	if answer.Code != http.StatusNotFound {
		t.Errorf("GET /fax = %d", answer.Code)
	}
}
