package httpcapture_test

import (
	"context"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/tree-of-life-system/immutable"
	"github.com/tree-of-life-system/immutable/capture"
	"github.com/tree-of-life-system/immutable/capture/httpcapture"
	"github.com/tree-of-life-system/immutable/event"
)

// printer stands for a log: it prints the messages.
type printer struct{}

func (printer) Append(_ context.Context, events ...immutable.Event) error {
	for _, e := range events {
		fmt.Println(e.Level, e.Message)
	}
	return nil
}

func ExampleNew() {
	rec := capture.New(printer{}, capture.Config{})
	h := httpcapture.New(rec, httpcapture.Config{})(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		httpcapture.SetActor(r.Context(), event.Actor{Type: event.ActorUser, Name: "ann"})
		w.WriteHeader(http.StatusForbidden)
	}))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodDelete, "/orders/4711?token=secret", nil))
	// Output: SECURITY DELETE /orders/4711
}

func ExampleNewTransport() {
	rec := capture.New(printer{}, capture.Config{})
	c := &http.Client{Transport: httpcapture.NewTransport(rec, nil, httpcapture.TransportConfig{AI: &httpcapture.AI{}})}
	resp, err := c.Post("https://api.example.com/chat/completions", "application/json", nil)
	if err != nil {
		log.Print(err)
		return
	}
	defer func() { _ = resp.Body.Close() }() // recorded when it was read, or here
}
