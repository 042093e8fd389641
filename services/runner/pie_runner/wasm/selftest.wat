;; The guest of the self-test. `run` looks at the first letter of its input:
;; echo: gives what it got from the host back to it;  fail: returns an error;  wait: parks, wants 7;  thing: two resources,
;; each made, used and dropped;  loop: forever;  recurse: until the stack ends;  grow: until memory.grow fails, then traps.
(component
  (type (;0;)
    (instance
      (type (;0;) (variant (case "none") (case "text" string)))
      (export (;1;) "v" (type (eq 0)))
      (type (;2;) (enum "first" "second"))
      (export (;3;) "e" (type (eq 2)))
      (type (;4;) (flags "a" "b"))
      (export (;5;) "f" (type (eq 4)))
      (export (;6;) "thing" (type (sub resource)))
      (type (;7;) (own 6))
      (type (;8;) (func (result 7)))
      (export (;0;) "[constructor]thing" (func (type 8)))
      (type (;9;) (borrow 6))
      (type (;10;) (func (param "self" 9) (result u32)))
      (export (;1;) "[method]thing.touch" (func (type 10)))
      (type (;11;) (list u32))
      (type (;12;) (list u8))
      (type (;13;) (tuple bool s32 u64 f64 char))
      (type (;14;) (result string (error string)))
      (type (;15;) (list 14))
      (type (;16;) (tuple 11 12 string 13 1 3 5 15))
      (type (;17;) (func (result 16)))
      (export (;2;) "give" (func (type 17)))
      (type (;18;) (func (param "a" 11) (param "b" 12) (param "c" string) (param "d" 13) (param "e" 1) (param "f" 3) (param "g" 5) (param "h" 15)))
      (export (;3;) "take" (func (type 18)))
      (type (;19;) (func (result u32)))
      (export (;4;) "wait" (func (type 19)))
    )
  )
  (import "pie:selftest/host@0.1.0" (instance (;0;) (type 0)))
  (core module (;0;)
    (type (;0;) (func (param i32)))
    (type (;1;) (func (result i32)))
    (type (;2;) (func (param i32) (result i32)))
    (type (;3;) (func (param i32 i32 i32 i32) (result i32)))
    (type (;4;) (func))
    (type (;5;) (func (param i32 i32) (result i32)))
    (import "pie:selftest/host@0.1.0" "give" (func $give (;0;) (type 0) (param i32)))
    (import "pie:selftest/host@0.1.0" "take" (func $take (;1;) (type 0) (param i32)))
    (import "pie:selftest/host@0.1.0" "wait" (func $wait (;2;) (type 1) (result i32)))
    (import "pie:selftest/host@0.1.0" "[constructor]thing" (func $thing (;3;) (type 1) (result i32)))
    (import "pie:selftest/host@0.1.0" "[method]thing.touch" (func $touch (;4;) (type 2) (param i32) (result i32)))
    (import "pie:selftest/host@0.1.0" "[resource-drop]thing" (func $drop (;5;) (type 0) (param i32)))
    (memory (;0;) 2)
    (global $top (;0;) (mut i32) i32.const 4096)
    (export "memory" (memory 0))
    (export "cabi_realloc" (func 6))
    (export "run" (func 9))
    (func (;6;) (type 3) (param $old i32) (param $size i32) (param $align i32) (param $new i32) (result i32)
      (local $at i32)
      global.get $top
      i32.const 7
      i32.add
      i32.const -8
      i32.and
      local.set $at
      local.get $at
      local.get $new
      i32.add
      global.set $top
      local.get $at
    )
    (func $recurse (;7;) (type 2) (param i32) (result i32)
      local.get 0
      i32.const 1
      i32.add
      call $recurse
      i32.const 1
      i32.add
    )
    (func $use_thing (;8;) (type 4)
      (local $handle i32)
      call $thing
      local.set $handle
      local.get $handle
      call $touch
      drop
      local.get $handle
      call $drop
    )
    (func (;9;) (type 5) (param $text i32) (param $size i32) (result i32)
      (local $op i32)
      local.get $text
      i32.load8_u
      local.set $op
      i32.const 512
      local.get $op
      i32.const 102
      i32.eq
      i32.store8
      local.get $op
      i32.const 101
      i32.eq
      if ;; label = @1
        i32.const 1024
        call $give
        i32.const 1024
        call $take
      end
      local.get $op
      i32.const 119
      i32.eq
      if ;; label = @1
        call $wait
        i32.const 7
        i32.ne
        if ;; label = @2
          unreachable
        end
      end
      local.get $op
      i32.const 116
      i32.eq
      if ;; label = @1
        call $use_thing
        call $use_thing
      end
      local.get $op
      i32.const 108
      i32.eq
      if ;; label = @1
        loop $again
          br $again
        end
      end
      local.get $op
      i32.const 114
      i32.eq
      if ;; label = @1
        i32.const 0
        call $recurse
        drop
      end
      local.get $op
      i32.const 103
      i32.eq
      if ;; label = @1
        loop $more
          i32.const 1
          memory.grow
          i32.const -1
          i32.ne
          br_if $more
        end
        unreachable
      end
      i32.const 516
      local.get $text
      i32.store
      i32.const 520
      local.get $size
      i32.store
      i32.const 512
    )
  )
  (core module (;1;)
    (type (;0;) (func (param i32)))
    (table (;0;) 2 2 funcref)
    (export "0" (func $indirect-pie:selftest/host@0.1.0-give))
    (export "1" (func $indirect-pie:selftest/host@0.1.0-take))
    (export "$imports" (table 0))
    (func $indirect-pie:selftest/host@0.1.0-give (;0;) (type 0) (param i32)
      local.get 0
      i32.const 0
      call_indirect (type 0)
    )
    (func $indirect-pie:selftest/host@0.1.0-take (;1;) (type 0) (param i32)
      local.get 0
      i32.const 1
      call_indirect (type 0)
    )
  )
  (core instance (;0;) (instantiate 1))
  (alias core export 0 "0" (core func (;0;)))
  (alias core export 0 "1" (core func (;1;)))
  (alias export 0 "wait" (func (;0;)))
  (core func (;2;) (canon lower (func 0)))
  (alias export 0 "[constructor]thing" (func (;1;)))
  (core func (;3;) (canon lower (func 1)))
  (alias export 0 "[method]thing.touch" (func (;2;)))
  (core func (;4;) (canon lower (func 2)))
  (alias export 0 "thing" (type (;1;)))
  (core func (;5;) (canon resource.drop 1))
  (core instance (;1;)
    (export "give" (func 0))
    (export "take" (func 1))
    (export "wait" (func 2))
    (export "[constructor]thing" (func 3))
    (export "[method]thing.touch" (func 4))
    (export "[resource-drop]thing" (func 5))
  )
  (core instance (;2;) (instantiate 0
      (with "pie:selftest/host@0.1.0" (instance 1))
    )
  )
  (alias core export 2 "memory" (core memory (;0;)))
  (core module (;2;)
    (type (;0;) (func (param i32)))
    (import "actual" "0" (func $0 (;0;) (type 0) (param i32)))
    (import "actual" "1" (func $1 (;1;) (type 0) (param i32)))
    (import "shim" "$imports" (table (;0;) 2 2 funcref))
    (elem (;0;) (i32.const 0) func $0 $1)
  )
  (alias export 0 "give" (func (;3;)))
  (alias core export 2 "cabi_realloc" (core func (;6;)))
  (core func (;7;) (canon lower (func 3) (memory 0) (realloc 6) string-encoding=utf8))
  (alias export 0 "take" (func (;4;)))
  (core func (;8;) (canon lower (func 4) (memory 0) string-encoding=utf8))
  (core instance (;3;)
    (export "0" (func 7))
    (export "1" (func 8))
  )
  (core instance (;4;) (instantiate 2
      (with "actual" (instance 3))
      (with "shim" (instance 0))
    )
  )
  (type (;2;) (result string (error string)))
  (type (;3;) (func (param "input" string) (result 2)))
  (alias core export 2 "run" (core func (;9;)))
  (func (;5;) (type 3) (canon lift (core func 9) (memory 0) (realloc 6) string-encoding=utf8))
  (export (;6;) "run" (func 5))
)
