from django.contrib import admin
from django.contrib.staticfiles.urls import staticfiles_urlpatterns
from django.urls import include, path

from demo import views

urlpatterns = [
    path("", views.room),
    path("sign-in", views.sign_in),
    path("sign-out", views.sign_out),
    path("calls", views.calls),
    path("calls/ring", views.ring),
    path("calls/<int:pk>/take", views.take),
    path("calls/<int:pk>/hang-up", views.hang_up),
    path("chat", views.chat),
    path("note", views.note),
    path("flag", views.flag),
    path("flag/set", views.set_flag),
    path("flag/me", views.move_me),
    path("health", views.health),
    path("realtime/", include("shim.urls")),
    path("admin/", admin.site.urls),
    *staticfiles_urlpatterns(),  # in DEBUG only
]
