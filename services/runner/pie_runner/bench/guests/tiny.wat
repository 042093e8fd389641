;; The smallest guest: what remains of a figure taken with it is the runner's own. Input: a letter and a number, perhaps in
;; quotes. n5: five calls without arguments (clocks.monotonic-now); w5: five waits (futures.wait-any of waitable 1).
(component
  (import "pie:inferlet/clocks@0.1.0" (instance $clocks
    (export "monotonic-now" (func (result u64)))))
  (import "pie:inferlet/futures@0.1.0" (instance $futures
    (export "wait-any" (func (param "ids" (list u32)) (result (list u32))))))

  ;; Memory has a module of its own, so that imports can be lowered onto it before the program exists.
  (core module $heap
    (memory (export "memory") 1)
    (global $top (mut i32) (i32.const 4096))
    (func (export "reset") (global.set $top (i32.const 4096)))
    (func (export "realloc") (param i32 i32 i32) (param $size i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $top) (i32.const 7)) (i32.const -8)))
      (global.set $top (i32.add (local.get $at) (local.get $size)))
      (local.get $at)))
  (core instance $heap (instantiate $heap))

  (core func $now (canon lower (func $clocks "monotonic-now")))
  (core func $wait (canon lower (func $futures "wait-any")
    (memory (core memory $heap "memory")) (realloc (core func $heap "realloc"))))

  (core module $program
    (import "heap" "memory" (memory 1))
    (import "heap" "reset" (func $reset))
    (import "host" "now" (func $now (result i64)))
    (import "host" "wait" (func $wait (param i32 i32 i32)))

    (func $number (param $at i32) (param $end i32) (result i32)
      (local $value i32)
      (block $done (loop $digit
        (br_if $done (i32.ge_u (local.get $at) (local.get $end)))
        (br_if $done (i32.eq (i32.load8_u (local.get $at)) (i32.const 34)))
        (local.set $value (i32.sub
          (i32.add (i32.mul (local.get $value) (i32.const 10)) (i32.load8_u (local.get $at)))
          (i32.const 48)))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br $digit)))
      (local.get $value))

    (func (export "run") (param $at i32) (param $size i32) (result i32)
      (local $end i32) (local $op i32) (local $count i32)
      (local.set $end (i32.add (local.get $at) (local.get $size)))
      (if (i32.eq (i32.load8_u (local.get $at)) (i32.const 34))
        (then (local.set $at (i32.add (local.get $at) (i32.const 1)))))
      (local.set $op (i32.load8_u (local.get $at)))
      (local.set $count (call $number (i32.add (local.get $at) (i32.const 1)) (local.get $end)))
      (i32.store (i32.const 256) (i32.const 1))
      (block $done (loop $again
        (br_if $done (i32.eqz (local.get $count)))
        (if (i32.eq (local.get $op) (i32.const 110)) (then (drop (call $now))))
        (if (i32.eq (local.get $op) (i32.const 119)) (then
          (call $reset)
          (call $wait (i32.const 256) (i32.const 1) (i32.const 264))))
        (local.set $count (i32.sub (local.get $count) (i32.const 1)))
        (br $again)))
      ;; ok("null")
      (i32.store8 (i32.const 512) (i32.const 0))
      (i32.store (i32.const 516) (i32.const 528))
      (i32.store (i32.const 520) (i32.const 4))
      (i32.const 512))
    (data (i32.const 528) "null"))
  (core instance $program (instantiate $program
    (with "heap" (instance $heap))
    (with "host" (instance (export "now" (func $now)) (export "wait" (func $wait))))))

  (func (export "run") (param "input" string) (result (result string (error string)))
    (canon lift (core func $program "run") (memory (core memory $heap "memory")) (realloc (core func $heap "realloc")))))
